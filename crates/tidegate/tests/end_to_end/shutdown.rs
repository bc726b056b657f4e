//! How the process ends, asked nicely and not.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::{
    client::Http,
    digits::{HELD_OUT, INFER, ONE},
    process::{is_running, until},
    rig::{Gateway, Model},
};

/// A replica that takes its time.
const SLOW: Model<'_> =
    Model { server: ", --pace, 1s", keys: "slo: {p99: 5s}", scaling: "{min: 2, max: 2}", ..Model::DIGITS };

/// A gateway with a slow call under way.
async fn busy() -> (Gateway, tokio::task::JoinHandle<crate::client::Reply>) {
    let gateway = Gateway::start(&[SLOW.yaml()]).await;
    gateway.until_ready("digits", 2).await;
    let mut client = gateway.connect().await;
    let call = tokio::spawn(async move { client.post(INFER, ONE).await });
    until("the call is under way", async || (gateway.model("digits").await["in_flight"] == 1).then_some(()))
        .await;
    (gateway, call)
}

#[tokio::test]
async fn a_termination_lets_calls_finish_and_leaves_nothing_behind() {
    let (mut gateway, call) = busy().await;
    let replicas = gateway.replicas();
    assert_eq!(replicas.len(), 2);
    gateway.signal(Signal::SIGTERM);
    let reply = call.await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["outputs"][0]["data"][0], HELD_OUT[0].class);
    assert_eq!(gateway.ended().await, Some(0));
    assert!(!replicas.into_iter().any(is_running));
}

#[tokio::test]
async fn while_it_drains_it_says_that_it_is_not_ready_and_alive() {
    let (mut gateway, call) = busy().await;
    let mut open = Http::connect(gateway.admin).await;
    gateway.signal(Signal::SIGTERM);
    until("readiness is gone", async || (open.get("/readyz").await.status == 503).then_some(())).await;
    assert_eq!(open.get("/livez").await.status, 200);
    assert_eq!(call.await.unwrap().status, 200);
    assert_eq!(gateway.ended().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let (mut gateway, call) = busy().await;
    let replicas = gateway.replicas();
    gateway.signal(Signal::SIGTERM);
    gateway.until_logged("a second signal").await;
    let asked = tokio::time::Instant::now();
    gateway.signal(Signal::SIGINT);
    assert_eq!(gateway.ended().await, Some(130));
    assert!(asked.elapsed() < Duration::from_millis(700), "{:?}", asked.elapsed());
    until("the replicas are gone", async || (!replicas.iter().copied().any(is_running)).then_some(())).await;
    call.abort();
}

#[tokio::test]
async fn a_gateway_that_is_killed_leaves_no_replicas() {
    let (mut gateway, call) = busy().await;
    let replicas = gateway.replicas();
    assert_eq!(replicas.len(), 2);
    gateway.signal(Signal::SIGKILL);
    assert_eq!(gateway.ended().await, None);
    until("the replicas are gone", async || (!replicas.iter().copied().any(is_running)).then_some(())).await;
    call.abort();
}
