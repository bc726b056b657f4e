//! What has changed between two statuses, and whether that is worth a write: what somebody waits for is at once,
//! numbers that move all the time are now and then.

use serde_json::Value;

/// How urgent a difference is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    None,
    /// Numbers and texts.
    Minor,
    Major,
}

impl Change {
    pub(super) fn between(before: &Value, now: &Value) -> Self {
        const MAJOR: [&str; 5] =
            ["/observedGeneration", "/state", "/target", "/replicas/ready", "/replicas/desired"];
        const MINOR: [&str; 4] =
            ["/replicas/current", "/lastDecision/from", "/lastDecision/to", "/lastDecision/reason"];
        const NUMBERS: [&str; 3] = ["/observed/rps", "/observed/p99", "/observed/queue"];
        let at = |status: &Value, path: &str| status.pointer(path).cloned().unwrap_or_default();
        let differs = |path: &&str| at(before, path) != at(now, path);
        let (facts_before, facts) = (conditions(before, &FACTS), conditions(now, &FACTS));
        if MAJOR.iter().any(&differs) || facts_before != facts {
            return Self::Major;
        }
        let moved = |path: &&str| moved(&at(before, path), &at(now, path));
        let texts = || conditions(before, &["message"]) != conditions(now, &["message"]);
        if MINOR.iter().any(differs) || NUMBERS.iter().any(moved) || texts() {
            return Self::Minor;
        }
        Self::None
    }
}

const FACTS: [&str; 2] = ["status", "reason"];

/// Of each condition its type and these fields, ordered by type.
fn conditions<'a>(status: &'a Value, fields: &[&str]) -> Vec<Vec<&'a Value>> {
    const ABSENT: &Value = &Value::Null;
    let all = status.get("conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut facts: Vec<Vec<_>> = all
        .iter()
        .map(|it| ["type"].iter().chain(fields).map(|field| it.get(field).unwrap_or(ABSENT)).collect())
        .collect();
    facts.sort_by_key(|fact| fact.first().and_then(|kind| kind.as_str()).unwrap_or_default());
    facts
}

/// By more than a fifth, or between something and nothing.
fn moved(before: &Value, now: &Value) -> bool {
    const FIFTH: f64 = 0.2;
    let (before, now) = match (number(before), number(now)) {
        (Some(before), Some(now)) => (before, now),
        (before, now) => return before.is_some() != now.is_some(),
    };
    (before - now).abs() > FIFTH * before.abs().max(f64::MIN_POSITIVE)
}

/// A number, or a time like `138ms` in seconds.
fn number(value: &Value) -> Option<f64> {
    let Some(text) = value.as_str() else { return value.as_f64() };
    match text.strip_suffix("ms") {
        Some(milliseconds) => milliseconds.parse::<f64>().ok().map(|number| number / 1e3),
        None => text.strip_suffix('s')?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status() -> Value {
        json!({
            "observedGeneration": 1,
            "state": "Ready",
            "target": "Deployment/digits",
            "replicas": {"current": 2, "ready": 2, "desired": 2},
            "observed": {"rps": 100.0, "p99": "100ms", "queue": 10, "asOf": "2026-01-01T00:00:00Z"},
            "lastDecision": {"time": "2026-01-01T00:00:00Z", "from": 1, "to": 2, "reason": "Load", "summary": "s", "epoch": 1},
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "Serving", "message": "m", "lastTransitionTime": "x"},
                {"type": "Active", "status": "True", "reason": "Traffic", "message": "", "lastTransitionTime": "x"},
            ],
        })
    }

    fn change(path: &str, value: Value) -> Change {
        let mut now = status();
        *now.pointer_mut(path).unwrap() = value;
        assert_eq!(Change::between(&now, &status()), Change::between(&status(), &now), "{path}");
        Change::between(&status(), &now)
    }

    #[test]
    fn state_numbers_of_replicas_and_conditions_are_at_once() {
        for (path, value) in [
            ("/observedGeneration", json!(2)),
            ("/state", json!("Scaling")),
            ("/target", json!("Deployment/other")),
            ("/replicas/ready", json!(1)),
            ("/replicas/desired", json!(3)),
            ("/conditions/0/status", json!("False")),
            ("/conditions/1/reason", json!("Warm")),
            ("/conditions/1/type", json!("SLOMet")),
        ] {
            assert_eq!(change(path, value), Change::Major, "{path}");
        }
        assert_eq!(Change::between(&Value::Null, &status()), Change::Major);
    }

    #[test]
    fn traffic_is_now_and_then_and_only_if_it_moved_by_more_than_a_fifth() {
        for (path, value, expected) in [
            ("/observed/rps", json!(119.0), Change::None),
            ("/observed/rps", json!(126.0), Change::Minor),
            ("/observed/rps", json!(0.0), Change::Minor),
            ("/observed/p99", json!("119ms"), Change::None),
            ("/observed/p99", json!("1.3s"), Change::Minor),
            ("/observed/p99", Value::Null, Change::Minor),
            ("/observed/queue", json!(13), Change::Minor),
            ("/observed/asOf", json!("2026-01-01T00:00:09Z"), Change::None),
            ("/replicas/current", json!(3), Change::Minor),
            ("/conditions/0/message", json!("other"), Change::Minor),
            ("/conditions/0/lastTransitionTime", json!("y"), Change::None),
            ("/lastDecision/epoch", json!(2), Change::None),
            ("/lastDecision/to", json!(3), Change::Minor),
        ] {
            assert_eq!(change(path, value), expected, "{path}");
        }
    }

    #[test]
    fn the_order_of_conditions_means_nothing() {
        let mut now = status();
        now["conditions"].as_array_mut().unwrap().reverse();
        assert_eq!(Change::between(&status(), &now), Change::None);
    }
}
