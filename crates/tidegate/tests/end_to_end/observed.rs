//! What the admin port shows.

use std::time::Duration;

use crate::{
    digits::{INFER, Load, ONE},
    process::until,
    rig::{Gateway, Model},
};

#[tokio::test]
async fn health_state_reasons_and_configuration_can_be_read() {
    let gateway = Gateway::start(&[Model::DIGITS.yaml()]).await;
    for path in ["/livez", "/readyz", "/metrics", "/"] {
        assert_eq!(gateway.admin(path).await.status, 200, "{path}");
    }
    let zero = gateway.admin("/api/models").await.json();
    assert_eq!(zero["models"][0]["name"], "digits");
    assert_eq!(zero["models"][0]["state"], "zero", "{zero:#}");

    assert_eq!(gateway.connect().await.post(INFER, ONE).await.status, 200);
    let awake = gateway.model("digits").await;
    assert_eq!(awake["state"], "ready", "{awake:#}");
    assert_eq!(awake["replica_list"][0]["phase"], "ready");
    let why = gateway.admin("/api/models/digits/why").await.json();
    assert!(why["text"].as_str().unwrap().contains("0→1: first request"), "{why:#}");
    assert_eq!(gateway.admin("/api/models/nope").await.status, 404);
    assert_eq!(gateway.admin("/api/models/digits/why?at=yesterday-ish").await.status, 400);

    let configuration = gateway.admin("/api/config").await.text();
    assert!(configuration.contains("SECRET_OF_THE_MODEL"), "{configuration}");
    assert!(!configuration.contains("hidden-value"), "values may be secret: {configuration}");
}

#[tokio::test]
async fn a_model_that_is_only_observed_is_compared_with_what_it_would_have() {
    let gateway = Gateway::ready(&Model { scaling: "{min: 1, max: 2}", ..Model::DIGITS }).await;
    let scaling = "{min: 0, max: 2, mode: observe, idleAfter: 2s}";
    gateway.rewrite(&[Model { scaling, ..Model::DIGITS }.yaml()]);
    let observed = until("the replica on paper is gone", async || {
        let model = gateway.model("digits").await;
        (model["observed"]["replicas"] == 0).then_some(model)
    })
    .await;
    assert_eq!(observed["observed"]["actual_replicas"], 1, "{observed:#}");
    assert_eq!(observed["replicas"]["ready"], 1, "nothing is changed");
    let (would, has) =
        (&observed["observed"]["replica_hours"], &observed["observed"]["actual_replica_hours"]);
    assert!(would.as_f64() <= has.as_f64() && has.as_f64() > Some(0.0), "{observed:#}");
    let why = gateway.admin("/api/models/digits/why").await.json();
    let text = why["text"].as_str().unwrap();
    assert!(text.starts_with("digits has 1 ready replica (would want 0, min 0, max 2)"), "{text}");
    assert!(text.contains("\n  observe   would have 0 replicas, has 1; in "), "{text}");
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("tidegate_observe_replicas", &[]), 0.0);
    assert!(metrics.names().contains(&"tidegate_observe_replica_seconds_total counter".to_owned()));
    assert_eq!(gateway.connect().await.post(INFER, ONE).await.status, 200);
    until("the replica on paper is back", async || {
        (gateway.model("digits").await["observed"]["replicas"] == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_page_elsewhere_cannot_read_the_admin_port() {
    let gateway = Gateway::start(&[Model::DIGITS.yaml()]).await;
    let mut client = crate::client::Http::connect(gateway.admin).await;
    let request = http::Request::get("/api/config").header("host", "rebound.example:9090");
    let reply = client.call(request.body(http_body_util::Full::default()).unwrap()).await.unwrap();
    assert_eq!(reply.status, 403);
}

/// The names that dashboards and alerts are built on; `latency_model_…` and queue gauges appear a second late.
#[tokio::test]
async fn every_promised_metric_is_there_after_traffic() {
    let gateway = Gateway::start(&[Model::DIGITS.yaml()]).await;
    let load = Load::start(gateway.clients, 10, Duration::from_millis(5));
    until("the latency is learned", async || {
        (gateway.metrics().await.sum("tidegate_latency_model_fixed_seconds", &[]) > 0.0).then_some(())
    })
    .await;
    let (_, wrong) = load.stop().await;
    assert_eq!(wrong, [""; 0]);
    insta::assert_snapshot!(gateway.metrics().await.names().join("\n"), @"
    tidegate_batch_requests histogram
    tidegate_batch_rows histogram
    tidegate_cold_start_duration_seconds histogram
    tidegate_cold_starts_total counter
    tidegate_config_last_reload_successful gauge
    tidegate_deadline_missed_total counter
    tidegate_desired_replicas gauge
    tidegate_latency_model_fixed_seconds gauge
    tidegate_latency_model_per_row_seconds gauge
    tidegate_overhead_seconds histogram
    tidegate_predicted_wait_seconds histogram
    tidegate_queue_bytes gauge
    tidegate_queue_oldest_seconds gauge
    tidegate_queue_requests gauge
    tidegate_queue_rows gauge
    tidegate_queue_wait_seconds histogram
    tidegate_replica_inflight gauge
    tidegate_replicas gauge
    tidegate_request_duration_seconds histogram
    tidegate_requests_total counter
    tidegate_scale_decisions_total counter
    tidegate_upstream_duration_seconds histogram
    ");
}
