//! `config schema`: the table of keys as JSON Schema, for editors that check and complete as one types.

use serde_json::{Map, Value, json};

use super::keys::{self, Fallback, Form, Key, Kind};

pub(super) const DURATION: &str = r"^(\d+(\.\d{1,9})?(ns|us|µs|ms|s|m|h|d))+$";
pub(super) const BYTES: &str = r"^\d+(\.\d{1,9})?(B|kB|KB|MB|GB|KiB|MiB|GiB|TiB)$";

/// The schema, draft 2020-12.
pub(crate) fn schema() -> Value {
    let mut schema = members(keys::ROOT);
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("Tidegate configuration"));
    Value::Object(schema)
}

fn section(keys: &[Key]) -> Value {
    Value::Object(members(keys))
}

fn members(keys: &[Key]) -> Map<String, Value> {
    let properties: Map<String, Value> =
        keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let required: Vec<&str> =
        keys.iter().filter(|key| key.fallback == Fallback::Required).map(|key| key.name).collect();
    let members = [
        ("type", json!("object")),
        ("properties", Value::Object(properties)),
        ("required", json!(required)),
        ("additionalProperties", json!(false)),
    ];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn property(key: &Key) -> Value {
    let mut schema = kind(&key.kind);
    if let Value::Object(members) = &mut schema {
        members.insert("description".to_owned(), json!(described(key)));
        if let (Fallback::Value(text), None) = (key.fallback, key.openai) {
            members.insert("default".to_owned(), default(&key.kind, text));
        }
    }
    schema
}

/// The meaning, and the defaults where they depend on another key.
fn described(key: &Key) -> String {
    match key.default_in_words().filter(|_| key.openai.is_some()) {
        Some(default) => format!("{} Default: {default}.", key.meaning),
        None => key.meaning.to_owned(),
    }
}

/// A default in the type that the schema gives it.
pub(super) fn default(kind: &Kind, text: &str) -> Value {
    match kind {
        Kind::Number { .. } => text.parse::<u64>().map_or_else(|_| json!(text), |number| json!(number)),
        Kind::Decimal { .. } => text.parse::<f64>().map_or_else(|_| json!(text), |number| json!(number)),
        Kind::Flag => json!(text == "true"),
        Kind::List(_) | Kind::Sections(_) => {
            let words = text.trim_matches(['[', ']']).split(", ").filter(|word| !word.is_empty());
            json!(words.collect::<Vec<_>>())
        }
        Kind::Texts => json!({}),
        _ => json!(text),
    }
}

fn kind(kind: &Kind) -> Value {
    match kind {
        Kind::Duration { or } => or_words(json!({"type": "string", "pattern": DURATION}), or),
        Kind::Bytes => json!({"type": "string", "pattern": BYTES}),
        Kind::Number { min, max, or } => {
            or_words(json!({"type": "integer", "minimum": min, "maximum": max}), or)
        }
        Kind::NumberOrText { min, max, form } => json!({"anyOf": [
            {"type": "integer", "minimum": min, "maximum": max},
            {"type": "string", "pattern": form.pattern},
        ]}),
        Kind::Decimal { min, max } => json!({"type": "number", "minimum": min, "maximum": max}),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Text(Form { pattern: "", .. }) => text(),
        Kind::Text(Form { pattern, .. }) => json!({"type": "string", "pattern": pattern}),
        Kind::Choice(choices) => {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            json!({"type": "string", "enum": words})
        }
        Kind::List(item) => json!({"type": "array", "items": self::kind(item), "minItems": 1}),
        Kind::OneOrMore(item) => {
            let item = self::kind(item);
            json!({"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]})
        }
        Kind::Texts => json!({"type": "object", "additionalProperties": text()}),
        Kind::Section(keys) => section(keys),
        Kind::ChoiceOrSection(choices, keys) => {
            json!({"anyOf": [self::kind(&Kind::Choice(choices)), section(keys)]})
        }
        Kind::Sections(keys) => json!({"type": "array", "items": section(keys)}),
    }
}

/// Any scalar: what is written is taken as text.
fn text() -> Value {
    json!({"type": ["string", "number", "boolean"]})
}

fn or_words(schema: Value, words: &[&str]) -> Value {
    if words.is_empty() { schema } else { json!({"anyOf": [schema, {"type": "string", "enum": words}]}) }
}
