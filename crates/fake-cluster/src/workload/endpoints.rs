//! EndpointSlices of a Service, as the endpoint slice controller keeps them: an endpoint stays in its slice, a slice
//! has at most a hundred, and a Service without endpoints has one slice with `endpoints: null`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    object::meta_text,
    workload::victims::{is_ready, is_terminating},
};

/// As the controller's default.
pub(crate) const ENDPOINTS_MAX: usize = 100;

/// What must be done for a Service: slices by name, and new ones without.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Changes {
    pub(crate) updated: Vec<(String, Value, Value)>,
    pub(crate) created: Vec<(Value, Value)>,
    pub(crate) deleted: Vec<String>,
}

/// The endpoint of a pod, if it has an address and still runs.
fn endpoint(pod: &Value, service: &Value) -> Option<Value> {
    let address = pod["status"]["podIP"].as_str()?;
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let serving = is_ready(pod);
    let terminating = is_terminating(pod);
    let always = service["spec"]["publishNotReadyAddresses"] == true;
    let conditions = json!({ "ready": always || (serving && !terminating), "serving": serving, "terminating": terminating });
    let target = json!({
        "kind": "Pod", "name": meta_text(pod, "name"), "namespace": meta_text(pod, "namespace"),
        "uid": meta_text(pod, "uid"),
    });
    Some(json!({
        "addresses": [address], "conditions": conditions, "nodeName": pod["spec"]["nodeName"], "targetRef": target,
    }))
}

/// The ports of a Service as its pods have them; a named port is looked up in the first pod that has it.
fn ports(service: &Value, pods: &[&Value]) -> Value {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let resolved = ports.filter_map(|port| {
        let target = &port["targetPort"];
        let number = match target.as_str() {
            Some(name) => pods.iter().find_map(|pod| named_port(pod, name))?,
            None => target.as_i64().or_else(|| port["port"].as_i64())?,
        };
        let mut resolved =
            json!({ "name": port["name"].as_str().unwrap_or_default(), "port": number, "protocol": port["protocol"] });
        if port["appProtocol"].is_string() {
            resolved["appProtocol"] = port["appProtocol"].clone();
        }
        Some(resolved)
    });
    Value::Array(resolved.collect())
}

fn named_port(pod: &Value, name: &str) -> Option<i64> {
    let containers = pod["spec"]["containers"].as_array()?.iter();
    let mut ports = containers.filter_map(|container| container["ports"].as_array()).flatten();
    ports.find(|port| port["name"] == name)?["containerPort"].as_i64()
}

/// What the slices of a Service lack.
pub(crate) fn changes(service: &Value, pods: &[&Value], slices: &[&Value]) -> Changes {
    let mut missing: BTreeMap<String, Value> = pods
        .iter()
        .filter_map(|pod| Some((meta_text(pod, "uid").to_owned(), endpoint(pod, service)?)))
        .collect();
    let ports = if missing.is_empty() { Value::Null } else { ports(service, pods) };
    let mut kept: Vec<(String, Vec<Value>)> = slices
        .iter()
        .map(|slice| {
            let endpoints = slice["endpoints"].as_array().into_iter().flatten();
            let uid = |endpoint: &Value| endpoint["targetRef"]["uid"].as_str().unwrap_or_default().to_owned();
            let kept = endpoints.filter_map(|endpoint| missing.remove(&uid(endpoint))).collect();
            (meta_text(slice, "name").to_owned(), kept)
        })
        .collect();
    let mut missing: Vec<Value> = missing.into_values().collect();
    for (_, endpoints) in &mut kept {
        let room = ENDPOINTS_MAX.saturating_sub(endpoints.len()).min(missing.len());
        endpoints.extend(missing.drain(..room));
    }
    let created: Vec<(Value, Value)> =
        missing.chunks(ENDPOINTS_MAX).map(|chunk| (chunk.to_vec().into(), ports.clone())).collect();
    placed(slices, kept, (created, ports))
}

fn placed(
    slices: &[&Value],
    kept: Vec<(String, Vec<Value>)>,
    (created, ports): (Vec<(Value, Value)>, Value),
) -> Changes {
    let mut changes = Changes { created, ..Changes::default() };
    let any = kept.iter().any(|(_, endpoints)| !endpoints.is_empty()) || !changes.created.is_empty();
    let mut placeholder = any;
    for ((name, endpoints), slice) in kept.into_iter().zip(slices) {
        if endpoints.is_empty() && placeholder {
            changes.deleted.push(name);
            continue;
        }
        let endpoints = if endpoints.is_empty() { Value::Null } else { endpoints.into() };
        placeholder = placeholder || endpoints.is_null();
        if slice["endpoints"] != endpoints || slice["ports"] != ports {
            changes.updated.push((name, endpoints, ports.clone()));
        }
    }
    if !placeholder {
        changes.created.push((Value::Null, Value::Null));
    }
    changes
}

/// A new slice of a Service.
pub(crate) fn slice(service: &Value, endpoints: Value, ports: Value) -> Value {
    let name = meta_text(service, "name");
    let owner = json!([{
        "apiVersion": "v1", "kind": "Service", "name": name, "uid": meta_text(service, "uid"), "controller": true,
        "blockOwnerDeletion": true,
    }]);
    let labels = json!({
        "kubernetes.io/service-name": name,
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    });
    json!({
        "metadata": {
            "generateName": format!("{name}-"), "namespace": meta_text(service, "namespace"),
            "labels": labels, "ownerReferences": owner,
        },
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(number: usize) -> Value {
        json!({
            "metadata": { "name": format!("p{number:03}"), "namespace": "default", "uid": format!("{number:03}") },
            "spec": { "nodeName": "n", "containers": [{ "ports": [{ "name": "http", "containerPort": 8080 }] }] },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "conditions": [{ "type": "Ready", "status": "True" }],
            },
        })
    }

    fn service() -> Value {
        json!({
            "metadata": { "name": "s", "namespace": "default", "uid": "s" },
            "spec": { "ports": [
                { "name": "http", "port": 80, "targetPort": "http", "protocol": "TCP" },
                { "name": "grpc", "port": 9000, "targetPort": 9000, "protocol": "TCP" },
            ] },
        })
    }

    fn named(name: &str, (endpoints, ports): (Value, Value)) -> Value {
        let mut made = slice(&service(), endpoints, ports);
        made["metadata"]["name"] = name.into();
        made
    }

    fn refs(values: &[Value]) -> Vec<&Value> {
        values.iter().collect()
    }

    #[test]
    fn slices_hold_a_hundred_and_endpoints_stay_where_they_are() {
        let pods: Vec<Value> = (0..150).map(pod).collect();
        let made = changes(&service(), &refs(&pods), &[]).created;
        let sizes: Vec<usize> = made.iter().map(|(list, _)| list.as_array().unwrap().len()).collect();
        assert_eq!(sizes, [100, 50]);
        assert_eq!(made[0].1[0], json!({ "name": "http", "port": 8080, "protocol": "TCP" }));
        let slices: Vec<Value> =
            made.into_iter().zip(["a", "b"]).map(|(slice, name)| named(name, slice)).collect();
        assert_eq!(changes(&service(), &refs(&pods), &refs(&slices)), Changes::default());
        let fewer = changes(&service(), &refs(&pods[..120]), &refs(&slices));
        assert_eq!((fewer.updated.len(), fewer.updated[0].0.as_str()), (1, "b"));
        assert_eq!(changes(&service(), &refs(&pods[..100]), &refs(&slices)).deleted, ["b"]);
    }

    #[test]
    fn a_service_without_endpoints_has_one_empty_slice() {
        let made = changes(&service(), &[], &[]).created;
        assert_eq!(made, [(Value::Null, Value::Null)]);
        let slices = [named("a", (json!([]), json!([]))), named("b", (json!([]), json!([])))];
        let changes = changes(&service(), &[], &refs(&slices));
        assert_eq!(changes.updated, [("a".to_owned(), Value::Null, Value::Null)]);
        assert_eq!(changes.deleted, ["b"]);
    }

    #[test]
    fn a_terminating_pod_serves_but_is_not_ready() {
        let mut ending = pod(1);
        ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let made = changes(&service(), &[&ending], &[]).created;
        assert_eq!(
            made[0].0[0]["conditions"],
            json!({ "ready": false, "serving": true, "terminating": true })
        );
    }
}
