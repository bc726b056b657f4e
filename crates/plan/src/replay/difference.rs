//! A decision that came out otherwise than it was recorded.

use std::time::Duration;

use autoscaler::{decide::Decision, explain::sentence, record::Tick};
use serde::Serialize;
use serde_json::Value;

/// Places that are named; more are left out.
const PLACES: usize = 5;

#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    pub at: Duration,
    /// In words; what was recorded may not be a decision to this version.
    pub recorded: String,
    pub replayed: String,
    /// Where in the decision they differ first, like `/inputs/load/rate`.
    pub places: Vec<String>,
}

impl Difference {
    /// `text` is `decision` as it would be recorded.
    pub(super) fn new(tick: &Tick, decision: &Decision, text: &str) -> Self {
        let recorded = match serde_json::from_str::<Decision>(tick.decision.get()) {
            Ok(decision) => sentence(&decision),
            Err(error) => format!("not a decision of this version: {error}"),
        };
        let mut places = Vec::new();
        let tree = |text| serde_json::from_str(text).unwrap_or(Value::Null);
        compare(&tree(tick.decision.get()), &tree(text), "", &mut places);
        Self { at: tick.at, recorded, replayed: sentence(decision), places }
    }
}

fn compare(a: &Value, b: &Value, path: &str, places: &mut Vec<String>) {
    if places.len() == PLACES {
        return;
    }
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let only_b = b.keys().filter(|name| !a.contains_key(*name));
            for name in a.keys().chain(only_b) {
                let member =
                    |object: &serde_json::Map<_, _>| object.get(name).cloned().unwrap_or(Value::Null);
                compare(&member(a), &member(b), &format!("{path}/{name}"), places);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                compare(a, b, &format!("{path}/{index}"), places);
            }
        }
        _ if a != b => places.push(path.to_owned()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places_are_named_by_their_path() {
        let a = json!({"to": 1, "terms": [{"n": 1}, {"n": 2}], "limits": [], "old": 1});
        let b = json!({"to": 2, "terms": [{"n": 1}, {"n": 3}], "limits": [1], "new": 1});
        let mut places = Vec::new();
        compare(&a, &b, "", &mut places);
        places.sort();
        assert_eq!(places, ["/limits", "/new", "/old", "/terms/1/n", "/to"]);
    }
}
