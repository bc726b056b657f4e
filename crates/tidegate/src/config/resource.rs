//! `Model` resources: their spec has the keys of an entry of `models`, and is read by the same code.

use serde_json::Value as Json;

use super::{
    Fleet, Limits, Model, keys,
    keys::{Key, Kind},
    read,
    report::{Finding, Severity, quoted},
    scalar::Bytes,
    section::{Findings, Setting},
    yaml::{Entry, Node, Scalar, Span, Value},
};

/// Sentences about one resource; what is beyond them is counted.
const SENTENCES_MAX: usize = 20;

/// The model that a resource declares. Its fleet always names the namespace, the resource's own.
///
/// # Errors
/// A sentence for each error, beginning with the key's path, like `spec.slo.p99`.
pub(crate) fn resource(
    namespace: &str,
    name: &str,
    spec: &Json,
    limits: &Limits,
) -> Result<Model, Vec<String>> {
    let memory = Setting {
        value: Bytes(limits.memory),
        text: in_units(limits.memory),
        path: "limits.memory".to_owned(),
        span: Some(Span::NOWHERE),
    };
    let mut found = Findings::default();
    let read = read::resource(&mut found, &tree(spec, keys::of_resource()), name, &memory);
    let model = read.and_then(|placed| at_home(&mut found, namespace, placed));
    let errors = found.into_inner().into_iter().filter(|finding| finding.severity == Severity::Error);
    let errors: Vec<String> = errors.map(|finding| sentence(&finding)).collect();
    match model {
        Some(model) if errors.is_empty() => Ok(model),
        _ => Err(bounded(errors)),
    }
}

/// The model with its namespace. A resource that could name another would scale what its author may not touch.
fn at_home(found: &mut Findings, namespace: &str, placed: read::Placed) -> Option<Model> {
    let read::Placed { mut model, site } = placed;
    let Fleet::Kubernetes(kubernetes) = &mut model.fleet else {
        let message = "a Model resource is for replicas in Kubernetes".to_owned();
        found.error(&site.path, site.span, message, "use kubernetes, or the configuration file");
        return None;
    };
    let named = kubernetes.namespace.replace(namespace.to_owned());
    if let Some(other) = named.filter(|named| named != namespace) {
        let path = "spec.fleet.kubernetes.namespace";
        let message = format!("{} is not the resource's own, {}", quoted(&other), quoted(namespace));
        found.error(path, site.span, message, "remove it");
        return None;
    }
    Some(model)
}

fn sentence(finding: &Finding) -> String {
    let Finding { path, message, hint, .. } = finding;
    let space = if hint.is_empty() { "" } else { "; " };
    format!("{path}: {message}{space}{hint}")
}

fn bounded(mut sentences: Vec<String>) -> Vec<String> {
    let hidden = sentences.len().saturating_sub(SENTENCES_MAX);
    if hidden > 0 {
        sentences.truncate(SENTENCES_MAX);
        sentences.push(format!("and {hidden} more"));
    }
    sentences
}

/// A size in the largest unit that leaves no remainder.
fn in_units(bytes: usize) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// The spec as the tree that a file would be.
pub(super) fn tree(spec: &Json, keys: &[Key]) -> Node {
    let Json::Object(members) = spec else { return node(spec, None) };
    let entries = members.iter().map(|(name, value)| Entry {
        key: name.clone(),
        key_span: Span::NOWHERE,
        value: node(value, keys.iter().find(|key| key.name == name)),
    });
    Node { span: Span::NOWHERE, value: Value::Map(entries.collect()) }
}

/// The value of a key, if it is known.
fn node(json: &Json, key: Option<&Key>) -> Node {
    let keys = key.map_or(&[][..], Key::children);
    let scalar = |text: String, quoted| Value::Scalar(Scalar { text, quoted });
    let value = match json {
        Json::Null => scalar(String::new(), false),
        // kubectl reads YAML 1.1, where the bare word is a boolean.
        Json::Bool(false) if key.is_some_and(|key| has_word(key, "off")) => scalar("off".to_owned(), false),
        Json::Bool(flag) => scalar(flag.to_string(), false),
        Json::Number(number) => scalar(number.to_string(), false),
        Json::String(text) => scalar(text.clone(), true),
        Json::Array(items) => Value::List(items.iter().map(|item| tree(item, keys)).collect()),
        Json::Object(_) => return tree(json, keys),
    };
    Node { span: Span::NOWHERE, value }
}

fn has_word(key: &Key, wanted: &str) -> bool {
    match key.kind {
        Kind::Choice(words) | Kind::ChoiceOrSection(words, _) => {
            words.iter().any(|(word, _)| *word == wanted)
        }
        _ => false,
    }
}
