//! The spec's schema, structural: every node has one type, or is one of the two unions that Kubernetes has an extension
//! for. Lists and texts are bounded, which bounds what the rules in CEL may cost.

use serde_json::{Map, Value, json};

use super::rules;
use crate::config::{
    keys::{self, Fallback, Form, Key, Kind},
    schema::{self, BYTES, DURATION},
};

/// Keys of the file that a resource does not have: replicas of a resource are in Kubernetes, and what no version
/// supports yet can be added when one does.
const LEFT_OUT: [&str; 3] = ["spec.fleet.process", "spec.fleet.static", "spec.tenants"];
/// Keys that a file may lack where other kinds of fleet are.
const REQUIRED: [&str; 3] = ["spec.fleet.kubernetes", "spec.scaling", "spec.scaling.max"];
/// Sections with one percentile: the one that holds while none is given is none beside another, and which objectives
/// there are depends on the protocol.
const OBJECTIVES: [&str; 3] = ["spec.slo", "spec.slo.ttft", "spec.slo.tpot"];

/// Meanings that other kinds of fleet have no part in.
const MEANINGS: [(&str, &str); 4] = [
    ("spec.fleet", "Where the model's replicas run."),
    ("spec.fleet.kubernetes.namespace", "The Model's own namespace, and no other; may be left out."),
    ("spec.scaling", "How many replicas there may be."),
    ("spec.scaling.max", "Most replicas."),
];

const TEXT_MAX: u32 = 512;
const QUANTITY_MAX: u32 = 32;
const ITEMS_MAX: usize = 64;

pub(super) fn schema() -> Value {
    let meaning = "What is served, and how: in the words of an entry of models in a configuration file.";
    with(section(keys::of_resource(), "spec"), "description", json!(meaning))
}

fn section(keys: &[Key], path: &str) -> Value {
    let is_required = |key: &Key| {
        key.fallback == Fallback::Required || REQUIRED.contains(&format!("{path}.{}", key.name).as_str())
    };
    let required: Vec<&str> = keys.iter().filter(|key| is_required(key)).map(|key| key.name).collect();
    let mut schema = json!({"type": "object", "properties": properties(keys, path)});
    if !required.is_empty() {
        schema = with(schema, "required", json!(required));
    }
    with_rules(schema, path)
}

fn properties(keys: &[Key], path: &str) -> Map<String, Value> {
    let paths = keys.iter().map(|key| (key, format!("{path}.{}", key.name)));
    let kept = paths.filter(|(_, path)| !LEFT_OUT.contains(&path.as_str()));
    kept.map(|(key, path)| (key.name.to_owned(), property(key, &path))).collect()
}

fn property(key: &Key, path: &str) -> Value {
    let mut schema = kind(&key.kind, path);
    if !matches!(key.kind, Kind::Section(_) | Kind::Sections(_)) {
        schema = with_rules(schema, path);
    }
    if let Some(default) = default(key, path) {
        schema = with(schema, "default", default);
    }
    with(schema, "description", json!(description(key, path)))
}

fn with_rules(schema: Value, path: &str) -> Value {
    let rules = rules::of(path);
    if rules.is_empty() { schema } else { with(schema, "x-kubernetes-validations", json!(rules)) }
}

fn with(mut schema: Value, name: &str, value: Value) -> Value {
    if let Some(members) = schema.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
    schema
}

fn kind(kind: &Kind, path: &str) -> Value {
    match kind {
        Kind::Duration { or: [] } => string(DURATION, QUANTITY_MAX),
        Kind::Duration { or } => string(&format!("{}|{DURATION}", one_of(or)), QUANTITY_MAX),
        Kind::Bytes => string(BYTES, QUANTITY_MAX),
        Kind::Number { min, max, or: [] } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::Number { min, max, or } => number_or_text((*min, *max), &one_of(or)),
        Kind::NumberOrText { min, max, form } => number_or_text((*min, *max), form.pattern),
        Kind::Decimal { min, max } => json!({"type": "number", "minimum": min, "maximum": max}),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Text(Form { pattern, .. }) => string(pattern, TEXT_MAX),
        Kind::Choice(choices) => json!({"type": "string", "enum": words(choices)}),
        // A node has one type: of what may be one or a list, the list.
        Kind::List(item) | Kind::OneOrMore(item) => list(item, path),
        Kind::Texts => json!({
            "type": "object",
            "additionalProperties": string("", TEXT_MAX),
            "maxProperties": ITEMS_MAX,
        }),
        Kind::Section(keys) => section(keys, path),
        Kind::ChoiceOrSection(choices, keys) => word_or_section(&words(choices), keys, path),
        // Names are distinct, so that each item may have an owner of its own.
        Kind::Sections(keys) => json!({
            "type": "array",
            "items": section(keys, path),
            "maxItems": ITEMS_MAX,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        }),
    }
}

/// A pattern of these words.
fn one_of(words: &[&str]) -> String {
    format!("^({})$", words.join("|"))
}

fn string(pattern: &str, length: u32) -> Value {
    if pattern.is_empty() {
        return json!({"type": "string", "maxLength": length});
    }
    json!({"type": "string", "maxLength": length, "pattern": pattern})
}

fn number_or_text((min, max): (u64, u64), pattern: &str) -> Value {
    json!({
        "x-kubernetes-int-or-string": true,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "minimum": min,
        "maximum": max,
        "maxLength": TEXT_MAX,
        "pattern": pattern,
    })
}

fn list(item: &Kind, path: &str) -> Value {
    // A word twice says no more than once.
    let (length, list_type) = match item {
        Kind::Choice(choices) => (choices.len(), "set"),
        _ => (ITEMS_MAX, "atomic"),
    };
    json!({
        "type": "array",
        "items": kind(item, path),
        "minItems": 1,
        "maxItems": length,
        "x-kubernetes-list-type": list_type,
    })
}

/// A node without a type, where anything may stand that one of two branches allows. A branch cannot ask for a type, but
/// bounds that contradict each other exclude one: the second excludes all that is no section. The word `off` is `false`
/// to the readers of YAML 1.1, kubectl among them.
fn word_or_section(words: &[&str], keys: &[Key], path: &str) -> Value {
    let mut scalars: Vec<Value> = words.iter().map(|word| json!(word)).collect();
    if words.contains(&"off") {
        scalars.push(json!(false));
    }
    json!({
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": properties(keys, path),
        "anyOf": [
            {"enum": scalars},
            {
                "minProperties": 1,
                "minLength": 1, "maxLength": 0,
                "minItems": 1, "maxItems": 0,
                "minimum": 1, "maximum": 0,
                "not": {"enum": [true, false]},
            },
        ],
    })
}

fn words<'c>(choices: &[(&'c str, &str)]) -> Vec<&'c str> {
    choices.iter().map(|(word, _)| *word).collect()
}

/// A default that does not depend on another key. What is empty needs none.
fn default(key: &Key, path: &str) -> Option<Value> {
    let section = path.strip_suffix(key.name).and_then(|path| path.strip_suffix('.'));
    if key.openai.is_some() || section.is_some_and(|section| OBJECTIVES.contains(&section)) {
        return None;
    }
    match (key.fallback, &key.kind) {
        (_, Kind::Sections(_) | Kind::Texts) => None,
        (Fallback::Value(text), kind) => Some(schema::default(kind, text)),
        _ => None,
    }
}

/// The meaning, and what may be written where the type does not say so.
fn description(key: &Key, path: &str) -> String {
    let own = MEANINGS.iter().find(|(of, _)| *of == path);
    let meaning = own.map_or(key.meaning, |(_, meaning)| *meaning);
    let description = match &key.kind {
        Kind::Choice(choices) | Kind::ChoiceOrSection(choices, _) => {
            keys::with_words(meaning, choices.iter())
        }
        Kind::Section(_) | Kind::Sections(_) | Kind::Flag | Kind::Texts => meaning.to_owned(),
        kind => format!("{meaning} Value: {}.", kind.words()),
    };
    // Where a definition is explained, its defaults are not shown.
    match key.default_in_words() {
        Some(text) if !matches!(text.as_str(), "{}" | "[]") => format!("{description} Default: {text}."),
        _ => description,
    }
}
