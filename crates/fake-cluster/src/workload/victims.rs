//! Which pods go first when there are too many: the order of the ReplicaSet controller.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use jiff::Timestamp;
use serde_json::Value;

use crate::object::{Object, meta_text};

/// The pods to delete, `count` of them.
pub(crate) fn choose(pods: &[Arc<Object>], count: usize, now: Timestamp) -> Vec<Arc<Object>> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in pods {
        *on_node.entry(node(&pod.value)).or_default() += 1;
    }
    let mut ranked: Vec<(Rank, &Arc<Object>)> =
        pods.iter().map(|pod| (rank(pod, on_node.get(node(&pod.value)).copied(), now), pod)).collect();
    ranked.sort_by(|(one, _), (other, _)| one.cmp(other));
    ranked.into_iter().take(count).map(|(_, pod)| pod.clone()).collect()
}

/// The least goes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    assigned: bool,
    /// Pending, unknown, running.
    phase: u8,
    ready: bool,
    /// The annotation `controller.kubernetes.io/pod-deletion-cost`.
    cost: i64,
    /// Pods on the same node: the more, the sooner.
    crowd: Reverse<usize>,
    /// How long it has been ready, as a power of two of nanoseconds: the server does not tell ages closer than that.
    ready_for: Option<u32>,
    restarts: Reverse<i64>,
    age: Option<u32>,
    uid: String,
}

fn rank(pod: &Object, crowd: Option<usize>, now: Timestamp) -> Rank {
    let status = &pod.value["status"];
    let ready = is_ready(&pod.value);
    let cost = &pod.value["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"];
    let containers = status["containerStatuses"].as_array().into_iter().flatten();
    Rank {
        assigned: !node(&pod.value).is_empty(),
        phase: match status["phase"].as_str() {
            Some("Pending") => 0,
            Some("Running") => 2,
            _ => 1,
        },
        ready,
        cost: cost.as_str().and_then(|cost| cost.parse().ok()).unwrap_or(0),
        crowd: Reverse(crowd.unwrap_or(0)),
        ready_for: ready.then(|| magnitude(ready_since(&pod.value), now)).flatten(),
        restarts: Reverse(containers.map(|container| container["restartCount"].as_i64().unwrap_or(0)).sum()),
        age: magnitude(meta_text(&pod.value, "creationTimestamp").parse().ok(), now),
        uid: pod.uid().to_owned(),
    }
}

fn magnitude(since: Option<Timestamp>, now: Timestamp) -> Option<u32> {
    let elapsed = now.duration_since(since?).as_nanos();
    u128::try_from(elapsed).ok()?.checked_ilog2()
}

fn node(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or_default()
}

/// The condition of a pod.
pub(crate) fn condition<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    pod["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == name)
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True")
}

/// Since when it has been ready.
pub(crate) fn ready_since(pod: &Value) -> Option<Timestamp> {
    condition(pod, "Ready")?["lastTransitionTime"].as_str()?.parse().ok()
}

pub(crate) fn is_terminating(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, ready_at: Option<&str>, more: Value) -> Arc<Object> {
        let mut pod = json!({
            "metadata": { "name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "nodeName": name }, "status": { "phase": "Running" },
        });
        if let Some(at) = ready_at {
            pod["status"]["conditions"] =
                json!([{ "type": "Ready", "status": "True", "lastTransitionTime": at }]);
        }
        crate::patch::merge(&mut pod, &more);
        Arc::new(Object::new(pod, 1))
    }

    #[test]
    fn the_least_useful_goes_first() {
        let cost = |cost: &str| json!({ "metadata": { "annotations": { "controller.kubernetes.io/pod-deletion-cost": cost } } });
        let old = Some("2026-01-01T00:00:10Z");
        let pods = [
            pod("old", old, json!({})),
            pod("dear", old, cost("100")),
            pod("cheap", old, cost("-5")),
            pod("young", Some("2026-01-01T00:59:00Z"), json!({})),
            pod("unready", None, json!({})),
            pod("pending", None, json!({ "status": { "phase": "Pending" } })),
            pod(
                "unassigned",
                None,
                json!({ "spec": { "nodeName": null }, "status": { "phase": "Pending" } }),
            ),
        ];
        let order = choose(&pods, 7, "2026-01-01T01:00:00Z".parse().unwrap());
        let names: Vec<&str> = order.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(names, ["unassigned", "pending", "unready", "cheap", "young", "old", "dear"]);
        assert_eq!(choose(&pods, 2, "2026-01-01T01:00:00Z".parse().unwrap()).len(), 2);
    }
}
