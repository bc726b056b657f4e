//! A configuration that changes while calls come in.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::{
    digits::Load,
    process::until,
    rig::{Gateway, Model},
};

const SUCCESSFUL: &str = "tidegate_config_last_reload_successful";
const GAP: Duration = Duration::from_millis(20);
const ONE_REPLICA: Model<'_> = Model { scaling: "{min: 1, max: 1}", ..Model::DIGITS };

async fn replica_ids(gateway: &Gateway) -> Vec<String> {
    let model = gateway.model("digits").await;
    let replicas = model["replica_list"].as_array().unwrap();
    replicas.iter().map(|replica| replica["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_new_model_appears_others_keep_their_replicas_and_no_call_fails() {
    let gateway = Gateway::ready(&ONE_REPLICA).await;
    let (ids, pids) = (replica_ids(&gateway).await, gateway.replicas());
    let load = Load::start(gateway.clients, 10, GAP);

    let more = Model { scaling: "{min: 1, max: 3}", ..Model::DIGITS };
    let mixed = Model { name: "mixed", ..Model::DIGITS };
    gateway.rewrite(&[more.yaml(), mixed.yaml()]);
    until("the new maximum holds", async || {
        (gateway.model("digits").await["replicas"]["max"] == 3).then_some(())
    })
    .await;
    let ready = gateway.connect().await.get("/v2/models/mixed/ready").await;
    assert_ne!(ready.status, 404, "{}", ready.text());
    assert_eq!(replica_ids(&gateway).await, ids);
    assert_eq!(gateway.replicas(), pids);

    gateway.rewrite(&[more.yaml()]);
    until("the model is gone", async || {
        (gateway.connect().await.get("/v2/models/mixed").await.status == 404).then_some(())
    })
    .await;
    let (answers, wrong) = load.stop().await;
    assert_eq!(wrong, [""; 0], "of {answers}");
    assert!(answers >= 10, "{answers}");
}

#[tokio::test]
async fn another_command_brings_other_replicas_and_no_call_fails() {
    let gateway = Gateway::ready(&ONE_REPLICA).await;
    let pids = gateway.replicas();
    let load = Load::start(gateway.clients, 10, GAP);
    gateway.rewrite(&[Model { server: ", --pace, 1ms", ..ONE_REPLICA }.yaml()]);
    until("the replica was replaced", async || {
        let now = gateway.replicas();
        (now.len() == 1 && now != pids).then_some(())
    })
    .await;
    let (answers, wrong) = load.stop().await;
    assert_eq!(wrong, [""; 0], "of {answers}");
}

#[tokio::test]
async fn a_file_that_does_not_validate_changes_nothing_but_the_metric() {
    let gateway = Gateway::ready(&ONE_REPLICA).await;
    let load = Load::start(gateway.clients, 5, GAP);
    let successful = async || gateway.metrics().await.sum(SUCCESSFUL, &[]) > 0.5;
    assert!(successful().await);

    gateway.rewrite_as("models:\n  - nmae: digits\n");
    until("the metric says that it failed", async || (!successful().await).then_some(())).await;
    gateway.until_logged("the last good one stays").await;
    assert!(gateway.log().contains("nmae"), "the log says what is wrong");
    assert_eq!(gateway.model("digits").await["state"], "ready");

    gateway.rewrite(&[Model { scaling: "{min: 1, max: 2}", ..Model::DIGITS }.yaml()]);
    until("the metric says that it worked", async || successful().await.then_some(())).await;
    assert_eq!(gateway.model("digits").await["replicas"]["max"], 2);
    let (answers, wrong) = load.stop().await;
    assert_eq!(wrong, [""; 0], "of {answers}");
}

#[tokio::test]
async fn a_hangup_reads_the_file_again() {
    let gateway = Gateway::start(&[Model::DIGITS.yaml()]).await;
    gateway.until_ready("digits", 0).await;
    gateway.signal(Signal::SIGHUP);
    gateway.until_logged("no changes").await;
}
