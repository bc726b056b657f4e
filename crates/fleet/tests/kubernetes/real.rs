//! The scenarios on a real API server, where there is one, and with no more rights than each role needs.

use fleet::kubernetes::wake::Woken;
use http::Method;
use serde_json::{Value, json};

use crate::{
    api_server::ApiServer,
    scenarios,
    stage::{Models, Stage, endpoint, until, until_told},
};
use autoscaler::fleet::Fleet as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scenarios_hold_on_a_real_api_server() {
    let Some(server) = ApiServer::start().await else { return };
    scenarios::all(|namespace| stage(&server, "admin", namespace)).await;
    a_gateway_needs_the_slices_and_the_scale_and_no_more(&server).await;
    an_autoscaler_needs_no_more_than_its_rules(&server).await;
}

/// A namespace of its own, where `user` is who is tested.
async fn stage(server: &ApiServer, user: &str, namespace: String) -> Stage {
    let (cluster, admin) = (server.connect(user).await, server.connect("admin").await.client());
    let stage = Stage::new(cluster, admin, &namespace);
    let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    create(&stage, "/api/v1/namespaces", &made).await;
    stage
}

async fn create(stage: &Stage, path: &str, object: &Value) {
    stage.call(Method::POST, path, "application/json", object).await.unwrap();
}

/// Gives `user` rights: API group, resource, verbs.
async fn allow(stage: &Stage, user: &str, rules: &[(&str, &str, &[&str])]) {
    let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}", stage.namespace);
    let rule = |(group, resource, verbs): &(&str, &str, &[&str])| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
    let rules: Vec<_> = rules.iter().map(rule).collect();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": user}, "rules": rules});
    create(stage, &format!("{path}/roles"), &role).await;
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
    create(stage, &format!("{path}/rolebindings"), &binding).await;
}

async fn a_gateway_needs_the_slices_and_the_scale_and_no_more(server: &ApiServer) {
    let stage = stage(server, "gateway", "gateway-rights".into()).await;
    allow(
        &stage,
        "gateway",
        &[
            ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
            ("apps", "deployments/scale", &["get", "patch"]),
        ],
    )
    .await;
    stage.deploy(0).await;
    stage.slice(&[endpoint("a", "10.0.0.1", true)]).await;
    until_told(&mut stage.endpoints(&Models::default()).replicas(), "a Ready").await;
    assert_eq!(stage.wake("Deployment/digits").wake().await, Ok(Woken::Awake));
    let fleet = stage.fleet("Deployment/digits");
    let seen = until(&mut fleet.target(), |target| target.trouble.is_some()).await;
    let missing = "not allowed to list deployments.apps in namespace gateway-rights";
    assert_eq!(seen.trouble.as_deref(), Some(missing));
}

async fn an_autoscaler_needs_no_more_than_its_rules(server: &ApiServer) {
    let stage = stage(server, "autoscaler", "autoscaler-rights".into()).await;
    allow(
        &stage,
        "autoscaler",
        &[
            ("", "pods", &["list", "watch", "patch"]),
            ("apps", "deployments", &["list", "watch"]),
            ("apps", "deployments/scale", &["get", "patch"]),
            ("autoscaling", "horizontalpodautoscalers", &["list", "watch"]),
        ],
    )
    .await;
    scenarios::an_autoscalers_day(&stage).await;
}
