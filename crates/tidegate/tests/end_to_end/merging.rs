//! Many clients at once: calls are merged, and every answer is its own caller's.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    client::Http,
    digits::{HELD_OUT, INFER, Way, classify_all, v2_json},
    rig::{Gateway, Model},
};

/// A replica that takes 8 ms and 1 ms a row.
const PACED: Model<'_> = Model { server: ", --pace, 8ms+1ms", scaling: "{min: 1, max: 1}", ..Model::DIGITS };
const CLIENTS: usize = 64;

async fn all_digits(way: Way) {
    let gateway = Gateway::ready(&PACED).await;
    classify_all(way, gateway.clients, CLIENTS).await;
    let metrics = gateway.metrics().await;
    let digits = &["model=\"digits\""];
    let (rows, batches) =
        (metrics.sum("tidegate_batch_rows_sum", digits), metrics.sum("tidegate_batch_rows_count", digits));
    assert!(rows >= HELD_OUT.len() as f64, "{rows} rows");
    assert!(rows / batches > 4.0, "{way:?}: {rows} rows in {batches} calls upstream");
    let failed = metrics.sum("tidegate_requests_total", digits)
        - metrics.sum("tidegate_requests_total", &["reason=\"ok\""]);
    assert!(failed <= 0.0, "{failed} calls failed");
}

#[tokio::test]
async fn all_digits_over_v1_are_classified_as_by_the_model_itself() {
    all_digits(Way::V1).await;
}

#[tokio::test]
async fn all_digits_over_v2_json_are_classified_as_by_the_model_itself() {
    all_digits(Way::V2Json).await;
}

#[tokio::test]
async fn all_digits_over_v2_binary_are_classified_as_by_the_model_itself() {
    all_digits(Way::V2Binary).await;
}

#[tokio::test]
async fn all_digits_over_grpc_with_raw_contents_are_classified_as_by_the_model_itself() {
    all_digits(Way::GrpcRaw).await;
}

#[tokio::test]
async fn all_digits_over_grpc_with_typed_contents_are_classified_as_by_the_model_itself() {
    all_digits(Way::GrpcTyped).await;
}

#[tokio::test]
async fn requests_of_different_lengths_get_exactly_their_own_rows_back() {
    let mixed = Model { name: "mixed", ..PACED };
    let gateway = Gateway::ready(&mixed).await;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS as i64 {
        let mut http = gateway.connect().await;
        clients.spawn(async move {
            for turn in 0..8 {
                let rows = 1 + (client + turn) % 5;
                echoes(&mut http, rows, (client * 100 + turn) * 1_000).await;
            }
        });
    }
    clients.join_all().await;
    let metrics = gateway.metrics().await;
    let (rows, requests) =
        (metrics.sum("tidegate_batch_rows_sum", &[]), metrics.sum("tidegate_batch_requests_sum", &[]));
    let batches = metrics.sum("tidegate_batch_rows_count", &[]);
    assert!(requests / batches > 2.0, "{requests} requests with {rows} rows in {batches} calls upstream");
}

/// Sends rows that nobody else sends and wants them back.
async fn echoes(http: &mut Http, rows: i64, first: i64) {
    let ids: Vec<i64> = (first..first + rows * 3).collect();
    let body = json!({ "id": format!("r{first}"), "inputs": [
        {"name": "ids", "datatype": "INT64", "shape": [rows, 3], "data": ids},
        {"name": "weights", "datatype": "FP32", "shape": [rows, 3], "data": vec![1.0; ids.len()]},
    ]});
    let reply = http.post("/v2/models/mixed/infer", body.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let reply = reply.json();
    assert_eq!(reply["id"], format!("r{first}"));
    let echo = reply["outputs"].as_array().unwrap().iter().find(|output| output["name"] == "echo").unwrap();
    assert_eq!(echo["shape"], json!([rows, 3]));
    assert_eq!(echo["data"], json!(ids), "these are another caller's rows");
}

#[tokio::test]
async fn a_bad_call_among_good_ones_fails_alone() {
    let gateway = Gateway::ready(&PACED).await;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let mut http = gateway.connect().await;
        clients.spawn(async move {
            let mut sentences = Vec::new();
            for (turn, digit) in HELD_OUT.iter().skip(client * 5).take(5).enumerate() {
                if client % 8 == 0 {
                    sentences.push(refused(&mut http, (client / 8 + turn) % 4).await);
                    continue;
                }
                let reply = http.post(INFER, v2_json(&digit.pixels)).await;
                assert_eq!(reply.status, 200, "{}", reply.text());
                assert_eq!(reply.json()["outputs"][0]["data"][0], digit.class);
            }
            sentences
        });
    }
    let sentences = clients.join_all().await.concat();
    assert_eq!(sentences.len(), 40);
    let batches = gateway.metrics().await.sum("tidegate_batch_requests_count", &[]);
    assert!(batches < 140.0, "280 good calls were merged, into {batches}");
}

/// Sends one of the requests that the model cannot compute; the sentence it is refused with.
async fn refused(http: &mut Http, which: usize) -> String {
    let pixels = |name: &str, datatype: &str, columns: usize| json!({ "inputs": [{"name": name, "datatype": datatype, "shape": [1, columns], "data": vec![0; columns]}] });
    let body: Value = match which {
        0 => pixels("pixels", "FP32", 63),
        1 => pixels("nope", "FP32", 64),
        2 => pixels("pixels", "INT64", 64),
        _ => json!({ "inputs": [] }),
    };
    let reply = http.post(INFER, body.to_string()).await;
    assert_eq!(reply.status, 400, "{body}: {}", reply.text());
    reply.json()["error"].as_str().unwrap().to_owned()
}
