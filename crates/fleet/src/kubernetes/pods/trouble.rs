//! Why a pod is not ready, in the fewest words that help.

use std::sync::Arc;

use super::wire::{Container, Status, Terminated, Waiting};

/// Longest part of a message of Kubernetes that is repeated.
const QUOTE_MAX: usize = 120;
/// Reasons to wait that are no trouble.
const USUAL: [&str; 3] = ["", "ContainerCreating", "PodInitializing"];

/// What is wrong, if something is; `None` for a pod that is simply not that far yet.
pub(super) fn of(status: &Status) -> Option<Arc<str>> {
    let init = status.init_container_statuses.iter().flatten();
    let main = status.container_statuses.iter().flatten();
    let mut containers = init.chain(main);
    unscheduled(status).or_else(|| containers.find_map(of_container)).map(Into::into)
}

fn unscheduled(status: &Status) -> Option<String> {
    let condition = status.condition("PodScheduled", "False")?;
    Some(match &*condition.reason {
        "Unschedulable" => no_place(&condition.message),
        "SchedulingGated" => "held back by a scheduling gate".to_owned(),
        reason => with_message(reason, &condition.message),
    })
}

/// `0/5 nodes are available: 2 node(s) had untolerated taint {x: }, 3 Insufficient nvidia.com/gpu. preemption: …`
/// comes down to `insufficient nvidia.com/gpu`.
fn no_place(message: &str) -> String {
    let (_, reasons) = message.split_once("available: ").unwrap_or(("", message));
    let reasons = reasons.split(". ").next().unwrap_or(reasons).trim_end_matches('.');
    let without_count =
        |reason: &str| reason.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').to_owned();
    let reasons: Vec<_> = reasons.split(", ").map(without_count).collect();
    let scarce: Vec<_> = reasons.iter().filter_map(|reason| reason.strip_prefix("Insufficient ")).collect();
    match (&*scarce, reasons.first()) {
        ([], Some(first)) if !first.is_empty() => format!("unschedulable: {}", quote(first)),
        ([], _) => "unschedulable".to_owned(),
        (scarce, _) => quote(&format!("insufficient {}", scarce.join(", "))).to_owned(),
    }
}

fn of_container(container: &Container) -> Option<String> {
    let state = container.state.as_ref();
    let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    if let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) {
        return why_waiting(waiting, last);
    }
    let ended = state.and_then(|state| state.terminated.as_ref());
    ended.or(last).filter(|end| end.exit_code != 0 || end.signal != 0).map(how_ended)
}

fn why_waiting(waiting: &Waiting, last: Option<&Terminated>) -> Option<String> {
    match (&*waiting.reason, last) {
        ("CrashLoopBackOff", Some(last)) => Some(format!("CrashLoopBackOff: {}", how_ended(last))),
        ("CrashLoopBackOff", None) => Some("CrashLoopBackOff".to_owned()),
        (usual, last) if USUAL.contains(&usual) => last.map(how_ended),
        (reason, _) => Some(with_message(reason, &waiting.message)),
    }
}

fn how_ended(end: &Terminated) -> String {
    let how = match end {
        Terminated { signal: 0, exit_code, .. } => format!("exit code {exit_code}"),
        Terminated { signal, .. } => format!("signal {signal}"),
    };
    match &*end.reason {
        // What Kubernetes says of any end that is not zero, and any that is.
        "" | "Error" | "Completed" => format!("ended with {how}"),
        reason => format!("{reason} ({how})"),
    }
}

fn with_message(reason: &str, message: &str) -> String {
    match quote(message) {
        "" => reason.to_owned(),
        message => format!("{reason}: {message}"),
    }
}

/// The first line, cut where it is long.
fn quote(message: &str) -> &str {
    let line = message.lines().next().unwrap_or_default().trim();
    let end = line.char_indices().nth(QUOTE_MAX).map_or(line.len(), |(end, _)| end);
    line.get(..end).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::pod;

    fn trouble(status: Value) -> Option<String> {
        let pod = pod(json!({"metadata": {"name": "a"}, "status": status}));
        pod.trouble.map(|words| words.to_string())
    }

    fn unschedulable(message: &str) -> String {
        let condition =
            json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
        trouble(json!({"phase": "Pending", "conditions": [condition]})).unwrap()
    }

    #[test]
    fn no_place_to_run_comes_down_to_what_is_scarce() {
        for (message, words) in [
            ("0/5 nodes are available: 5 Insufficient nvidia.com/gpu.", "insufficient nvidia.com/gpu"),
            (
                "0/5 nodes are available: 1 node(s) had untolerated taint {gpu: }, 4 Insufficient memory, 4 \
                 Insufficient cpu. preemption: 0/5 nodes are available: 5 No preemption victims found.",
                "insufficient memory, cpu",
            ),
            (
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
                "unschedulable: node(s) didn't match Pod's node affinity/selector",
            ),
            ("no nodes available to schedule pods", "unschedulable: no nodes available to schedule pods"),
            ("", "unschedulable"),
        ] {
            assert_eq!(unschedulable(message), words);
        }
    }

    #[test]
    fn a_container_that_cannot_run_says_why() {
        let waiting = |reason: &str, message: &str, last: Value| {
            trouble(json!({"phase": "Pending", "containerStatuses": [
                {"state": {"waiting": {"reason": reason, "message": message}}, "lastState": last}]}))
        };
        let killed = json!({"terminated": {"reason": "OOMKilled", "exitCode": 137}});
        let failed = json!({"terminated": {"reason": "Error", "exitCode": 1}});
        for (found, expected) in [
            (waiting("ContainerCreating", "", json!({})), None),
            (
                waiting("ImagePullBackOff", "Back-off pulling image \"x:1\"", json!({})),
                Some("ImagePullBackOff: Back-off pulling image \"x:1\""),
            ),
            (waiting("ErrImagePull", "", Value::Null), Some("ErrImagePull")),
            (
                waiting("CrashLoopBackOff", "back-off 5m0s restarting failed container=x", killed.clone()),
                Some("CrashLoopBackOff: OOMKilled (exit code 137)"),
            ),
            (waiting("CrashLoopBackOff", "", failed), Some("CrashLoopBackOff: ended with exit code 1")),
            (
                waiting("CreateContainerConfigError", "secret \"s\" not found", json!({})),
                Some("CreateContainerConfigError: secret \"s\" not found"),
            ),
        ] {
            assert_eq!(found.as_deref(), expected);
        }
    }

    #[test]
    fn a_restarted_container_tells_of_its_last_end_until_it_is_ready() {
        let containers = json!([{"state": {"running": {}}, "restartCount": 1,
            "lastState": {"terminated": {"reason": "Error", "exitCode": 139, "signal": 11}}}]);
        let found = trouble(json!({"phase": "Running", "containerStatuses": containers}));
        assert_eq!(found.as_deref(), Some("ended with signal 11"));
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let found =
            trouble(json!({"phase": "Running", "conditions": ready, "containerStatuses": containers}));
        assert_eq!(found, None);
    }

    #[test]
    fn a_failing_first_step_is_told_before_what_waits_for_it() {
        let found = trouble(json!({"phase": "Pending",
            "initContainerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}],
            "containerStatuses": [{"state": {"waiting": {"reason": "PodInitializing"}}}]}));
        assert_eq!(found.as_deref(), Some("CrashLoopBackOff"));
    }

    #[test]
    fn long_messages_are_cut() {
        let found = unschedulable(&format!("0/1 nodes are available: 1 {}.", "é".repeat(400)));
        assert_eq!(found.chars().count(), "unschedulable: ".len() + 120);
    }
}
