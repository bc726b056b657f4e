//! From zero replicas and back: the first call, a crowd of first calls, and the end of an idle model.

use crate::{
    client::burst,
    digits::{HELD_OUT, INFER, ONE, v2_json},
    process::until,
    rig::{Gateway, Model},
};

#[tokio::test]
async fn the_first_call_starts_a_replica_waits_for_it_and_says_so() {
    let slow = Model { server: ", --start-delay, 300ms", ..Model::DIGITS };
    let gateway = Gateway::start(&[slow.yaml()]).await;
    assert_eq!(gateway.replicas(), [], "nobody has asked yet");
    let mut client = gateway.connect().await;

    let first = client.post(INFER, ONE).await;
    assert_eq!(first.status, 200, "{}", first.text());
    assert_eq!(first.json()["outputs"][0]["data"][0], HELD_OUT[0].class);
    let cold = first.header("x-tidegate-cold-start").trim_end_matches('s').parse::<f64>();
    assert!(cold.is_ok_and(|seconds| seconds >= 0.3), "{:?}", first.headers);
    assert!(first.header("server-timing").starts_with("queue;dur="), "{:?}", first.headers);

    let second = client.post(INFER, v2_json(&HELD_OUT[1].pixels)).await;
    assert_eq!(second.json()["outputs"][0]["data"][0], HELD_OUT[1].class);
    assert_eq!(second.header("x-tidegate-cold-start"), "", "only those who waited are told");
}

#[tokio::test]
async fn what_the_model_says_of_itself_wakes_it_too() {
    let gateway = Gateway::start(&[Model::DIGITS.yaml()]).await;
    let metadata = gateway.connect().await.get("/v2/models/digits").await;
    assert_eq!(metadata.status, 200, "{}", metadata.text());
    assert_eq!(metadata.json()["inputs"][0]["name"], "pixels");
}

#[tokio::test]
async fn two_thousand_calls_at_zero_are_one_wake_and_each_is_answered_or_refused() {
    const CALLS: usize = 2_000;
    let slow = Model { server: ", --start-delay, 500ms", ..Model::DIGITS };
    let gateway = Gateway::start(&[slow.yaml()]).await;
    let outcomes = burst(gateway.clients, CALLS, INFER, ONE).await;

    assert_eq!(outcomes.values().sum::<usize>(), CALLS);
    let of = |status: u16, reason: &str| outcomes.get(&(status, reason.to_owned())).copied().unwrap_or(0);
    assert!(of(200, "") >= 1_000, "the waiting room has 1,024 places: {outcomes:?}");
    assert_eq!(of(200, "") + of(429, "queue_full") + of(429, "predicted_late"), CALLS, "{outcomes:?}");

    let shed = gateway.metrics().await.sum("tidegate_shed_total", &["model=\"digits\""]);
    assert_eq!(shed as usize, CALLS - of(200, ""), "every refusal is counted");

    let decisions = gateway.decisions().await;
    let writes: Vec<_> = decisions.iter().filter(|decision| decision["outcome"] == "applied").collect();
    assert_eq!(writes.len(), 1, "one wake: {writes:#?}");
    assert_eq!(writes[0]["decision"]["from"], 0);
    assert_eq!(writes[0]["decision"]["to"], 1);
    assert_eq!(gateway.replicas().len(), 1);
}

#[tokio::test]
async fn an_idle_model_goes_to_zero_and_comes_back() {
    let brief = Model { scaling: "{min: 0, max: 1, idleAfter: 2s}", ..Model::DIGITS };
    let gateway = Gateway::start(&[brief.yaml()]).await;
    let mut client = gateway.connect().await;
    assert_eq!(client.post(INFER, ONE).await.status, 200);

    until("the replica is gone", async || gateway.replicas().is_empty().then_some(())).await;
    let decisions = gateway.decisions().await;
    let last = decisions.iter().rfind(|decision| decision["outcome"] == "applied").unwrap();
    assert_eq!(last["decision"]["reason"], "idle", "{last:#}");
    assert_eq!(last["decision"]["to"], 0);
    let why = gateway.admin("/api/models/digits/why").await.json();
    assert!(why["text"].as_str().unwrap().contains("→0"), "{why:#}");

    let again = client.post(INFER, ONE).await;
    assert_eq!(again.status, 200, "{}", again.text());
    assert!(!again.header("x-tidegate-cold-start").is_empty());
}

#[tokio::test]
async fn a_model_that_cannot_start_is_refused_in_time_and_says_why() {
    let broken = r#"  - name: broken
    fleet: {process: {command: [tidegate, model-server, --onnx, examples/models/README.md, --port, "{port}"]}}
    scaling: {min: 0, max: 1, coldStartTimeout: 2s}
"#;
    let gateway = Gateway::start(&[broken.to_owned()]).await;
    let reply = gateway.connect().await.post("/v2/models/broken/infer", ONE).await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(["cold_start_failed", "cold_start_timeout"].contains(&reply.reason()), "{}", reply.text());
    assert!(!reply.header("retry-after").is_empty(), "{:?}", reply.headers);
}
