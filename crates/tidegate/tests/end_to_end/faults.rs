//! Replicas that die under load, and addresses where nobody is.

use std::{net::SocketAddr, time::Duration};

use tokio::{net::TcpListener, time::Instant};

use crate::{
    digits::{INFER, Load, ONE},
    process::{kill_now, until},
    rig::{Gateway, Model, Server, fixed},
};

const GAP: Duration = Duration::from_millis(5);

#[tokio::test]
async fn a_replica_killed_under_load_costs_no_caller_anything_and_is_started_again() {
    let two = Model {
        server: ", --pace, 8ms+1ms",
        keys: "slo: {p99: 500ms}\nidempotent: true",
        scaling: "{min: 2, max: 2}",
        ..Model::DIGITS
    };
    let gateway = Gateway::start(&[two.yaml()]).await;
    gateway.until_ready("digits", 2).await;
    let load = Load::start(gateway.clients, 16, GAP);
    let calls = async || gateway.metrics().await.sum("tidegate_requests_total", &["reason=\"ok\""]);
    until("load is on", async || (calls().await > 200.0).then_some(())).await;

    let replicas = gateway.replicas();
    assert_eq!(replicas.len(), 2);
    kill_now(replicas[0]);
    until("another runs in its place", async || {
        let now = gateway.replicas();
        (now.len() == 2 && !now.contains(&replicas[0])).then_some(())
    })
    .await;
    gateway.until_ready("digits", 2).await;

    let (answers, wrong) = load.stop().await;
    assert_eq!(wrong, [""; 0], "of {answers}");
    let model = gateway.model("digits").await;
    let restarts: u64 = model["replica_list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|replica| replica["restarts"].as_u64().unwrap())
        .sum();
    assert_eq!(restarts, 1, "{model:#}");
}

/// An address at which nobody listens.
async fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn of_two_fixed_addresses_one_is_enough() {
    let server = Server::start(&[]).await;
    let gateway = Gateway::start(&[fixed(&[dead().await, server.address], "slo: {p99: 500ms}")]).await;
    gateway.until_ready("digits", 1).await;
    let load = Load::start(gateway.clients, 10, GAP);
    let calls = async || gateway.metrics().await.sum("tidegate_requests_total", &["reason=\"ok\""]);
    until("all callers were answered", async || (calls().await > 100.0).then_some(())).await;
    let (_, wrong) = load.stop().await;
    assert_eq!(wrong, [""; 0]);
}

#[tokio::test]
async fn without_any_live_address_calls_are_refused_at_once() {
    let server = Server::start(&[]).await;
    let gateway = Gateway::start(&[fixed(&[dead().await, server.address], "slo: {p99: 500ms}")]).await;
    gateway.until_ready("digits", 1).await;
    let mut client = gateway.connect().await;
    assert_eq!(client.post(INFER, ONE).await.status, 200);

    server.stop().await;
    // Until that is known, calls wait a while: a server that is restarted may be back at once.
    until("the model is known to be down", async || {
        let reply = client.post(INFER, ONE).await;
        assert_eq!((reply.status.as_u16(), reply.reason()), (503, "no_replicas"), "{}", reply.text());
        (gateway.model("digits").await["state"] == "down").then_some(())
    })
    .await;
    for _ in 0..10 {
        let (asked, reply) = (Instant::now(), client.post(INFER, ONE).await);
        let took = asked.elapsed();
        assert_eq!((reply.status.as_u16(), reply.reason()), (503, "no_replicas"), "{}", reply.text());
        assert!(took < Duration::from_millis(100), "{took:?}");
        assert!(!reply.header("retry-after").is_empty());
        assert!(!reply.text().contains("127.0.0.1"), "clients are told no addresses: {}", reply.text());
    }
    assert_eq!(client.get("/v2/models/digits/ready").await.status, 503);
}
