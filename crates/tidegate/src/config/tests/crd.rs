//! The definition of `Model`: structural, bounded, as committed, and of one mind with the reader of a spec.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::config::{
    crd::{crd, definition},
    keys::{self, Key},
    resource,
};

const COMMITTED: &str = "manifests/base/crd.yaml";

fn schema() -> Value {
    definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Every node of the schema with its path, branches of unions left out.
fn nodes(schema: &Value, path: &str, found: &mut Vec<(String, Value)>) {
    found.push((path.to_owned(), schema.clone()));
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        nodes(property, &format!("{path}.{name}"), found);
    }
    if let Some(items) = schema.get("items") {
        nodes(items, &format!("{path}[]"), found);
    }
}

fn all_nodes() -> Vec<(String, Value)> {
    let mut found = Vec::new();
    nodes(&schema(), "", &mut found);
    found
}

#[test]
fn the_committed_definition_is_what_is_printed() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(COMMITTED);
    let committed = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == crd(),
        "{COMMITTED} is out of date: write it with \"cargo run -- config crd > {COMMITTED}\""
    );
}

#[test]
fn every_node_has_one_type_or_is_a_union_that_kubernetes_knows() {
    for (path, node) in all_nodes() {
        let is_union = node["x-kubernetes-int-or-string"] == true;
        let is_open = node["x-kubernetes-preserve-unknown-fields"] == true;
        let is_typed = node["type"].is_string();
        assert_eq!([is_union, is_open, is_typed].iter().filter(|is| **is).count(), 1, "{path}: {node:#}");
        for branch in node["anyOf"].as_array().into_iter().flatten().filter(|_| !is_union) {
            for forbidden in ["type", "description", "default", "properties", "items"] {
                assert!(branch.get(forbidden).is_none(), "{path}: {branch:#}");
            }
        }
    }
}

#[test]
fn texts_and_lists_are_bounded() {
    for (path, node) in all_nodes() {
        let is_text = node["type"] == "string" || node["x-kubernetes-int-or-string"] == true;
        let is_closed = node["enum"].is_array() || node["format"] == "date-time";
        // What every object has is bounded by the API server.
        let is_own = path != ".apiVersion" && path != ".kind";
        if is_text && !is_closed && is_own {
            assert!(node["maxLength"].is_u64(), "{path}: {node:#}");
        }
        if node["type"] == "array" {
            assert!(node["maxItems"].is_u64(), "{path}: {node:#}");
        }
    }
}

#[test]
fn every_node_of_spec_and_status_is_described() {
    for (path, node) in all_nodes() {
        if (path.starts_with(".spec") || path.starts_with(".status")) && !path.ends_with("[]") {
            let description = node["description"].as_str().unwrap_or_default();
            assert!(description.ends_with('.'), "{path}: {description:?}");
            assert!(!description.contains("not supported"), "{path}: {description:?}");
        }
    }
}

/// A spec that is complete but for `value` at `path`.
fn spec_with(path: &str, value: Value) -> Value {
    let mut spec = json!({
        "fleet": {"kubernetes": {"target": "Deployment/digits", "port": 8001}},
        "scaling": {"max": 10_000},
    });
    let mut at = &mut spec;
    let mut steps = path.replacen("p99.9", "p99#9", 1);
    if steps.starts_with("scaling.schedules.") {
        at["scaling"]["schedules"] = json!([{
            "name": "n", "timezone": "Europe/Prague", "from": "01:00", "to": "23:00", "replicas": 1,
        }]);
        at = &mut at["scaling"]["schedules"][0];
        steps = steps.replacen("scaling.schedules.", "", 1);
        if steps == "min" || steps == "max" {
            at.as_object_mut().map(|members| members.remove("replicas"));
        }
    }
    if path.starts_with("routing") || path.starts_with("slo.t") {
        at["protocol"] = json!("openai");
    }
    for step in steps.split('.') {
        at = &mut at[step.replace('#', ".")];
    }
    *at = value;
    spec
}

/// Errors of the reader, but those that other keys are to blame for.
fn refused(spec: &Value) -> Vec<String> {
    let limits = super::config("models: [{name: m, fleet: {static: {addresses: [h:1]}}}]").limits;
    let said = resource("ml", "digits", spec, &limits).err().unwrap_or_default();
    said.into_iter()
        .filter(|said| !said.contains(" is more than ") && !said.contains("rows are held"))
        .collect()
}

#[test]
fn what_the_definition_fills_in_and_offers_is_accepted() {
    for (path, node) in all_nodes() {
        let Some(path) = path.strip_prefix(".spec.") else { continue };
        let path = path.replace("[]", "");
        let words =
            [&node["enum"], &node["anyOf"][0]["enum"]].into_iter().filter_map(Value::as_array).flatten();
        for value in node.get("default").into_iter().chain(words) {
            let in_list = path.ends_with(".days") && !value.is_array();
            let value = if in_list { json!([value]) } else { value.clone() };
            assert_eq!(refused(&spec_with(&path, value.clone())), [""; 0], "{path}: {value}");
        }
    }
}

/// The paths of the table's keys, as the definition has them.
fn table(keys: &'static [Key], prefix: &str, found: &mut Vec<String>) {
    for key in keys {
        let path = format!("{prefix}.{}", key.name);
        let inside = if key.is_repeated() { format!("{path}[]") } else { path.clone() };
        found.push(path);
        table(key.children(), &inside, found);
    }
}

#[test]
fn the_definition_has_every_key_that_a_resource_may_have_and_no_other() {
    let mut known = Vec::new();
    table(keys::of_resource(), ".spec", &mut known);
    let of_others = [".spec.fleet.process", ".spec.fleet.static", ".spec.tenants"];
    known.retain(|path| !of_others.iter().any(|other| path.starts_with(other)));
    let mut defined: Vec<String> = all_nodes().into_iter().map(|(path, _)| path).collect();
    defined.retain(|path| path.starts_with(".spec.") && !path.ends_with("[]"));
    known.sort();
    defined.sort();
    assert_eq!(defined, known);
}
