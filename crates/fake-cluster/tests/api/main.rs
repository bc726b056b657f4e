//! What clients see over HTTP. The expectations were taken from a real API server, not from this one.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test may panic")]

mod client;
mod faults;
mod objects;
mod patches;
mod served;
mod watches;
mod workload;

use serde_json::{Value, json};

fn deployment(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "c", "image": "x" }] },
            },
        },
    })
}

fn config_map(name: &str, label: &str) -> Value {
    json!({ "metadata": { "name": name, "labels": { "tier": label } }, "data": { "key": "value" } })
}

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const DIGITS: &str = "/apis/apps/v1/namespaces/default/deployments/digits";
const SCALE: &str = "/apis/apps/v1/namespaces/default/deployments/digits/scale";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
