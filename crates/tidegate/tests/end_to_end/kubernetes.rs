//! Gateways and autoscalers as processes of a cluster: who wakes a model, who leads, and what goes on when one is gone.

use fake_cluster::{Calls, Verb};
use nix::sys::signal::Signal;

use crate::{
    digits::{HELD_OUT, INFER, ONE},
    process::until,
    town::Town,
};

#[tokio::test]
async fn the_leader_wakes_a_deployment_for_the_first_call_and_says_why() {
    let town = Town::new().await;
    town.list_gateways(&["gateway-1"]);
    let autoscaler = town.start("autoscaler", "autoscaler-1").await;
    let gateway = town.start("gateway", "gateway-1").await;
    until("it leads and hears the gateway", async || {
        autoscaler.why().await.contains("1 gateway reporting").then_some(())
    })
    .await;
    assert_eq!(town.replicas(), 0);

    let first = gateway.connect().await.post(INFER, ONE).await;
    assert_eq!(first.status, 200, "{}", first.text());
    assert_eq!(first.json()["outputs"][0]["data"][0], HELD_OUT[0].class);
    assert!(!first.header("x-tidegate-cold-start").is_empty(), "{:?}", first.headers);
    assert_eq!(town.replicas(), 1);
    let writes = town.cluster.log().calls(&Calls::any().verb(Verb::Patch).resource("deployments/scale"));
    let writers: Vec<_> = writes.iter().map(|call| call.agent.as_str()).collect();
    assert!(matches!(writers.as_slice(), [one] if one.ends_with("(autoscaler)")), "{writers:?}");
    let decisions = autoscaler.admin("/api/models/digits/decisions").await.json();
    assert_eq!(decisions["decisions"][0]["decision"]["to"], 1, "{decisions:#}");
    until("the gateway knows why", async || gateway.why().await.contains("autoscaler-1").then_some(())).await;
    let served = autoscaler.admin("/readyz").await;
    assert_eq!(served.status, 200, "{}", served.text());
}

#[tokio::test]
async fn a_gateway_without_any_autoscaler_wakes_the_model_itself() {
    let town = Town::new().await;
    let gateway = town.start("gateway", "gateway-1").await;
    let answer = gateway.connect().await.post(INFER, ONE).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(town.replicas(), 1);
    assert!(gateway.why().await.contains("no leader"), "{}", gateway.why().await);
}

#[tokio::test]
async fn a_killed_leader_is_followed_and_calls_go_on_also_without_the_api_server() {
    let town = Town::new().await;
    town.list_gateways(&["gateway-1"]);
    let first = town.start("autoscaler", "autoscaler-1").await;
    until("it leads", async || (town.leader() == "autoscaler-1").then_some(())).await;
    let second = town.start("autoscaler", "autoscaler-2").await;
    let gateway = town.start("gateway", "gateway-1").await;
    let mut client = gateway.connect().await;
    assert_eq!(client.post(INFER, ONE).await.status, 200);

    first.signal(Signal::SIGKILL);
    until("the other leads", async || {
        let answer = client.post(INFER, ONE).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        (town.leader() == "autoscaler-2").then_some(())
    })
    .await;
    until("and decides", async || second.why().await.contains("want").then_some(())).await;

    town.cluster.down();
    for _ in 0..20 {
        let answer = client.post(INFER, ONE).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    town.cluster.up();
    assert_eq!(town.replicas(), 1);
}

#[tokio::test]
async fn one_process_can_be_both() {
    let town = Town::new().await;
    town.list_gateways(&["both"]);
    let both = town.start("all", "both").await;
    let answer = both.connect().await.post(INFER, ONE).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(town.replicas(), 1);
    until("it decides", async || both.why().await.contains("1 gateway reporting").then_some(())).await;
}
