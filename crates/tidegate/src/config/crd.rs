//! `config crd`: the custom resource `Model` as a CustomResourceDefinition, so that an API server refuses most of what
//! the reader of a spec would, and `kubectl explain` says what `config explain` does.

mod rules;
mod spec;
mod status;

use serde_json::{Value, json};

use super::yaml;

const GROUP: &str = "tidegate.dev";
const VERSION: &str = "v1alpha1";
const KIND: &str = "Model";
const PLURAL: &str = "models";

const HEADER: &str = "\
# The custom resource Model. Printed by \"tidegate config crd\" from the table that configuration files are read by: not
# to be edited here.
";

/// The definition as YAML.
pub(crate) fn crd() -> String {
    format!("{HEADER}{}", yaml::write(&definition()))
}

pub(super) fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{PLURAL}.{GROUP}") },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": format!("{KIND}List"),
                "plural": PLURAL,
                "singular": "model",
                "shortNames": ["tgm"],
                "categories": ["tidegate"],
            },
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": columns(),
                "schema": { "openAPIV3Schema": schema() },
            }],
        },
    })
}

fn schema() -> Value {
    json!({
        "type": "object",
        "description": "A model that Tidegate serves: the replicas it runs on, the latency that its answers are to \
            keep, and how many replicas there may be. Its name is the model's in client calls.",
        "required": ["spec"],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": { "type": "object" },
            "spec": spec::schema(),
            "status": status::schema(),
        },
        "x-kubernetes-validations": rules::of(""),
    })
}

/// What `kubectl get` shows; those of priority 1 with `-o wide` only.
fn columns() -> Value {
    let column = |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
    let wide = |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path, "priority": 1});
    json!([
        column("Target", "string", ".status.target"),
        column("Ready", "integer", ".status.replicas.ready"),
        column("Desired", "integer", ".status.replicas.desired"),
        column("State", "string", ".status.state"),
        column("Reason", "string", r#".status.conditions[?(@.type=="Ready")].reason"#),
        // There is one percentile, whichever it is.
        column("SLO", "string", ".spec.slo.*"),
        wide("Min", "integer", ".spec.scaling.min"),
        wide("Max", "integer", ".spec.scaling.max"),
        wide("P99", "string", ".status.observed.p99"),
        wide("Last", "string", ".status.lastDecision.summary"),
        column("Age", "date", ".metadata.creationTimestamp"),
    ])
}
