//! The fields of a pod that matter, as the API server sends them. Everything else is skipped unread.

use autoscaler::fleet::Phase;
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::BTreeMap;

use super::{Labels, trouble};
use crate::kubernetes::watch::Version;

#[derive(Deserialize)]
pub(super) struct Pod {
    metadata: Metadata,
    #[serde(default)]
    pub(super) status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Box<str>,
    uid: Box<str>,
    resource_version: Version,
    labels: Option<BTreeMap<Box<str>, Box<str>>>,
    annotations: Option<Annotations>,
    creation_timestamp: Option<Timestamp>,
    deletion_timestamp: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "controller.kubernetes.io/pod-deletion-cost")]
    deletion_cost: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Status {
    phase: Box<str>,
    conditions: Option<Vec<Condition>>,
    pub(super) container_statuses: Option<Vec<Container>>,
    pub(super) init_container_statuses: Option<Vec<Container>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Condition {
    r#type: Box<str>,
    status: Box<str>,
    pub(super) reason: Box<str>,
    pub(super) message: Box<str>,
    last_transition_time: Option<Timestamp>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Container {
    restart_count: u32,
    pub(super) state: Option<State>,
    pub(super) last_state: Option<State>,
}

#[derive(Default, Deserialize)]
pub(super) struct State {
    pub(super) waiting: Option<Waiting>,
    running: Option<serde::de::IgnoredAny>,
    pub(super) terminated: Option<Terminated>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Waiting {
    pub(super) reason: Box<str>,
    pub(super) message: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Terminated {
    pub(super) reason: Box<str>,
    pub(super) exit_code: i64,
    pub(super) signal: i64,
}

impl Status {
    /// A condition, if it has that status.
    pub(super) fn condition(&self, kind: &str, status: &str) -> Option<&Condition> {
        let mut conditions = self.conditions.iter().flatten();
        conditions.find(|condition| *condition.r#type == *kind && *condition.status == *status)
    }

    fn phase(&self, leaving: bool) -> Option<Phase> {
        let mut containers = self.container_statuses.iter().flatten();
        let runs = |container: &Container| container.state.as_ref().is_some_and(|s| s.running.is_some());
        match &*self.phase {
            "Succeeded" | "Failed" => None,
            _ if leaving => Some(Phase::Draining),
            _ if self.condition("Ready", "True").is_some() => Some(Phase::Ready),
            // One that waits to be started again after a crash runs nothing, whatever its phase is called.
            "Running" if containers.all(runs) => Some(Phase::Starting),
            _ => Some(Phase::Pending),
        }
    }

    fn restarts(&self) -> u32 {
        let containers = self.container_statuses.iter().flatten();
        containers.map(|container| container.restart_count).fold(0, u32::saturating_add)
    }
}

impl From<Pod> for super::Pod {
    fn from(Pod { metadata, status }: Pod) -> Self {
        let phase = status.phase(metadata.deletion_timestamp.is_some());
        let unready = matches!(phase, Some(Phase::Pending | Phase::Starting));
        let labels = metadata.labels.unwrap_or_default().into_iter().collect();
        Self {
            name: metadata.name.into(),
            uid: metadata.uid.into(),
            version: metadata.resource_version,
            labels: Labels(labels),
            deletion_cost: metadata.annotations.and_then(|annotations| annotations.deletion_cost),
            phase,
            created: metadata.creation_timestamp,
            ready_since: status.condition("Ready", "True").and_then(|ready| ready.last_transition_time),
            restarts: status.restarts(),
            trouble: if unready { trouble::of(&status) } else { None },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::pod;
    use super::*;

    fn phase(status: Value) -> Option<Phase> {
        pod(json!({"metadata": {"name": "a"}, "status": status})).phase
    }

    #[test]
    fn the_phase_is_that_of_what_runs() {
        let running = json!([{"state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]);
        let waiting = json!([{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]);
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let unready = json!([{"type": "Ready", "status": "False"}]);
        let both = json!([running[0], waiting[0]]);
        for (status, expected) in [
            (json!({}), Some(Phase::Pending)),
            (json!({"phase": "Pending", "containerStatuses": null}), Some(Phase::Pending)),
            (json!({"phase": "Running", "containerStatuses": running}), Some(Phase::Starting)),
            (
                json!({"phase": "Running", "conditions": unready, "containerStatuses": running}),
                Some(Phase::Starting),
            ),
            (json!({"phase": "Running", "containerStatuses": waiting}), Some(Phase::Pending)),
            (json!({"phase": "Running", "containerStatuses": both}), Some(Phase::Pending)),
            (
                json!({"phase": "Running", "conditions": ready, "containerStatuses": running}),
                Some(Phase::Ready),
            ),
            (json!({"phase": "Failed", "reason": "Evicted"}), None),
            (json!({"phase": "Succeeded"}), None),
        ] {
            assert_eq!(phase(status.clone()), expected, "{status}");
        }
    }

    #[test]
    fn a_pod_that_is_being_deleted_drains_even_while_it_is_ready() {
        let leaving = pod(json!({
            "metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }));
        assert_eq!(leaving.phase, Some(Phase::Draining));
    }

    #[test]
    fn the_deletion_cost_and_the_restarts_are_kept() {
        let pod = pod(json!({
            "metadata": {"name": "a", "uid": "u", "annotations": {
                "x": "y", "controller.kubernetes.io/pod-deletion-cost": "5"}},
            "status": {"containerStatuses": [{"restartCount": 2}, {"restartCount": 1}]},
        }));
        assert_eq!((pod.deletion_cost.as_deref(), pod.restarts, &*pod.uid), (Some("5"), 3, "u"));
    }
}
