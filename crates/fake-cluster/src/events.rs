//! Events have two faces: `v1` and `events.k8s.io/v1` show the same objects under different names of members.

use serde_json::{Map, Value};

/// Members of the newer face, and what the stored one calls them.
const NAMES: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// The stored event as `events.k8s.io/v1` shows it.
pub(crate) fn shown(stored: &Value) -> Value {
    renamed(stored, "events.k8s.io/v1", |key| NAMES.iter().find(|(_, old)| *old == key).map(|(new, _)| *new))
}

/// An event of `events.k8s.io/v1` as it is stored.
pub(crate) fn stored(shown: &Value) -> Value {
    renamed(shown, "v1", |key| NAMES.iter().find(|(new, _)| *new == key).map(|(_, old)| *old))
}

fn renamed(event: &Value, api_version: &str, name: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Some(members) = event.as_object() else { return event.clone() };
    let mut result = Map::new();
    for (key, value) in members {
        result.insert(name(key).unwrap_or(key).to_owned(), value.clone());
    }
    result.insert("apiVersion".into(), api_version.into());
    Value::Object(result)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_faces_say_the_same() {
        let new = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": { "name": "e" }, "note": "text",
            "reason": "Scaled", "regarding": { "kind": "Deployment" }, "reportingController": "tidegate",
        });
        let old = stored(&new);
        assert_eq!(old["message"], "text");
        assert_eq!(old["involvedObject"]["kind"], "Deployment");
        assert_eq!(old["reportingComponent"], "tidegate");
        assert_eq!(shown(&old), new);
    }
}
