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
