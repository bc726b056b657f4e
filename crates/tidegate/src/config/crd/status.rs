//! The status's schema: what the deciding autoscaler tells of a model. Words are not closed here, so that a newer
//! version can say more to an older definition.

use serde_json::{Value, json};

pub(super) fn schema() -> Value {
    json!({
        "type": "object",
        "description": "What Tidegate makes of it; written by the autoscaler that decides.",
        "properties": {
            "observedGeneration": {
                "type": "integer",
                "format": "int64",
                "description": "The metadata.generation that the rest is about.",
            },
            "state": text(64, "Zero, Starting, Ready, Scaling, Degraded, Frozen or Error."),
            "target": text(512, "The object that is scaled, as Kind/name."),
            "replicas": {
                "type": "object",
                "description": "How many replicas there are.",
                "properties": {
                    "current": count("Those that the target asks for."),
                    "ready": count("Those that can answer."),
                    "desired": count("Those that the last decision asks for."),
                },
            },
            "observed": observed(),
            "lastDecision": last_decision(),
            "conditions": conditions(),
        },
    })
}

fn observed() -> Value {
    json!({
        "type": "object",
        "description": "The traffic, as gateways reported it; seldom rewritten.",
        "properties": {
            "rps": { "type": "number", "description": "Requests per second." },
            "p99": text(32, "99 of 100 answers took at most this."),
            "queue": count("Requests that waited."),
            "asOf": time("When it was so."),
        },
    })
}

fn last_decision() -> Value {
    json!({
        "type": "object",
        "description": "The last decision that changed the number of replicas.",
        "properties": {
            "time": time("When it was taken."),
            "from": count("Replicas before."),
            "to": count("Replicas after."),
            "reason": text(64, "Its reason in one word."),
            "summary": text(4096, "The decision and its arithmetic in a sentence."),
            "epoch": {
                "type": "integer",
                "format": "int64",
                "minimum": 0,
                "description": "Which leadership took it; each change of leader adds one.",
            },
        },
    })
}

/// Conditions as Kubernetes has them everywhere, `metav1.Condition`.
fn conditions() -> Value {
    const REASON: &str = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$";
    json!({
        "type": "array",
        "description": "Ready, Active, SLOMet, ScalingActive, ScalingLimited and Accepted.",
        "maxItems": 32,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": text(316, "What it is about."),
                "status": {
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                    "description": "Whether it holds.",
                },
                "observedGeneration": {
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                    "description": "The metadata.generation that it is about.",
                },
                "lastTransitionTime": time("When status changed last."),
                "reason": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": REASON,
                    "description": "Why, in one word.",
                },
                "message": text(32_768, "Why, in a sentence; may be empty."),
            },
        },
    })
}

fn text(length: u32, meaning: &str) -> Value {
    json!({"type": "string", "maxLength": length, "description": meaning})
}

fn count(meaning: &str) -> Value {
    json!({"type": "integer", "minimum": 0, "description": meaning})
}

fn time(meaning: &str) -> Value {
    json!({"type": "string", "format": "date-time", "description": meaning})
}
