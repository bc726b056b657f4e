//! Just enough of OpenAPI v3 for `kubectl apply`: that every kind may be patched with field validation. The fields
//! themselves are not described, and nothing is validated.

use serde_json::{Map, Value, json};

use crate::kinds::{Kind, Kinds};

fn path_of(kind: &Kind, version: &str) -> String {
    if kind.group.is_empty() { format!("api/{version}") } else { format!("apis/{}/{version}", kind.group) }
}

/// The documents there are: one for each group and version.
pub(crate) fn index(kinds: &Kinds) -> Value {
    let mut paths = Map::new();
    for kind in kinds.all() {
        for version in &kind.versions {
            let path = path_of(kind, version);
            // The number changes with the kinds, so that clients do not trust what they remember.
            let url = format!("/openapi/v3/{path}?hash={}", kinds.all().len());
            paths.insert(path, json!({ "serverRelativeURL": url }));
        }
    }
    json!({ "paths": paths })
}

/// The document of one group and version; none if nothing is served there.
pub(crate) fn document(kinds: &Kinds, path: &str) -> Option<Value> {
    let mut paths = Map::new();
    for kind in kinds.all() {
        for version in kind.versions.iter().filter(|version| path_of(kind, version) == path) {
            let namespace = if kind.namespaced() { "namespaces/{namespace}/" } else { "" };
            let patch = json!({
                "parameters": [{ "name": "fieldValidation", "in": "query", "schema": { "type": "string" } }],
                "responses": {},
                "x-kubernetes-action": "patch",
                "x-kubernetes-group-version-kind": { "group": kind.group, "version": version, "kind": kind.kind },
            });
            paths.insert(format!("/{path}/{namespace}{}/{{name}}", kind.plural), json!({ "patch": patch }));
        }
    }
    let info = json!({ "title": "Kubernetes", "version": "v1.36.0" });
    (!paths.is_empty()).then(|| json!({ "openapi": "3.0.0", "info": info, "paths": paths }))
}
