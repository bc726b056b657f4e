//! One model server behind each protocol that it speaks, asked in every way a client may ask.

use crate::{
    digits::{INFER, ONE, Way, classify_all},
    rig::{Gateway, Model, Server, fixed},
};

const CLIENTS: usize = 16;

#[tokio::test]
async fn over_http_with_merging_every_surface_works() {
    let rest = Model {
        server: ", --pace, 4ms",
        keys: "slo: {p99: 500ms}\nprotocol: v2-http\nbatching: auto",
        scaling: "{min: 1, max: 1}",
        ..Model::DIGITS
    };
    let gateway = Gateway::ready(&rest).await;
    for way in Way::ALL {
        classify_all(way, gateway.clients, CLIENTS).await;
    }
    let metrics = gateway.metrics().await;
    let (rows, batches) =
        (metrics.sum("tidegate_batch_rows_sum", &[]), metrics.sum("tidegate_batch_rows_count", &[]));
    assert!(rows / batches > 2.0, "{rows} rows in {batches} calls upstream");
}

#[tokio::test]
async fn over_http_without_merging_every_surface_works_and_each_call_goes_alone() {
    let rest = Model {
        keys: "slo: {p99: 500ms}\nprotocol: v2-http\nbatching: off",
        scaling: "{min: 1, max: 1}",
        ..Model::DIGITS
    };
    let gateway = Gateway::ready(&rest).await;
    for way in Way::ALL {
        classify_all(way, gateway.clients, CLIENTS).await;
    }
    assert!(gateway.metrics().await.sum("tidegate_batch_requests_bucket", &["le=\"1\""]) >= 2250.0);
}

#[tokio::test]
async fn over_grpc_without_merging_every_surface_works() {
    let alone =
        Model { keys: "slo: {p99: 500ms}\nbatching: off", scaling: "{min: 1, max: 1}", ..Model::DIGITS };
    let gateway = Gateway::ready(&alone).await;
    for way in Way::ALL {
        classify_all(way, gateway.clients, CLIENTS).await;
    }
}

#[tokio::test]
async fn a_body_that_is_handed_on_as_it_came_is_answered_as_the_server_answers_it() {
    let server = Server::start(&[]).await;
    let keys = "protocol: v2-http\nbatching: off";
    let gateway = Gateway::start(&[fixed(&[server.address], keys)]).await;
    gateway.until_ready("digits", 1).await;
    let through = gateway.connect().await.post(INFER, ONE).await;
    let direct = crate::client::Http::connect(server.address).await.post(INFER, ONE).await;
    assert_eq!(through.status, 200);
    assert_eq!(through.json(), direct.json());
}
