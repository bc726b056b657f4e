//! `Model` resources: the words of a file, told apart from it only by where they stand.

use std::time::Duration;

use pipeline::{Batching, Concurrency};
use serde_json::{Value, json};

use super::config;
use crate::config::{Fleet, Limits, Model, Objective, Port, Slo, resource};

const FILE: &str = r#"
limits: {memory: 512MiB}
models:
  - name: digits
    fleet: {kubernetes: {namespace: ml, target: Deployment/digits, port: 8001}}
    slo: {p95: 20ms}
    batching: {maxRows: 8}
    concurrency: 3
    idempotent: false
    scaling:
      max: 4
      schedules:
        - {name: night, timezone: Europe/Prague, days: [fri], from: "22:00", to: "07:00", max: 0}
"#;

fn limits() -> Limits {
    config(FILE).limits
}

fn spec() -> Value {
    json!({
        "fleet": {"kubernetes": {"target": "Deployment/digits", "port": 8001}},
        "slo": {"p95": "20ms"},
        "batching": {"maxRows": 8},
        "concurrency": 3,
        "idempotent": false,
        "scaling": {"max": 4, "schedules": [{
            "name": "night", "timezone": "Europe/Prague", "days": ["fri"], "from": "22:00", "to": "07:00", "max": 0,
        }]},
    })
}

fn read(spec: &Value) -> Result<Model, Vec<String>> {
    resource("ml", "digits", spec, &limits())
}

/// What is said of the spec with `value` in the place of what stands at `pointer`.
fn said(pointer: &str, value: Value) -> Vec<String> {
    let mut spec = spec();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    spec.pointer_mut(parent).unwrap()[name] = value;
    read(&spec).err().unwrap_or_default()
}

#[test]
fn a_resource_declares_what_a_file_would() {
    assert_eq!(read(&spec()).unwrap(), config(FILE).models[0]);
}

#[test]
fn what_a_resource_leaves_out_is_as_in_a_file() {
    let spec = json!({
        "fleet": {"kubernetes": {"target": "Deployment/digits", "port": "grpc"}},
        "scaling": {"max": 1},
    });
    let model = read(&spec).unwrap();
    assert_eq!(model.slo, Slo::Latency(Objective { quantile: 0.99, latency: Duration::from_millis(100) }));
    assert_eq!((model.batching, model.concurrency), (Batching::Auto, Concurrency::Auto));
    let Fleet::Kubernetes(kubernetes) = model.fleet else { panic!("{:?}", model.fleet) };
    assert_eq!((kubernetes.namespace.as_deref(), kubernetes.service.as_str()), (Some("ml"), "digits"));
    assert_eq!(kubernetes.port, Port::Name("grpc".to_owned()));
}

#[test]
fn off_is_false_to_those_who_wrote_yaml_1_1() {
    for off in [json!("off"), json!(false)] {
        let spec = json!({
            "fleet": {"kubernetes": {"target": "Deployment/digits", "port": 1}},
            "scaling": {"max": 1},
            "batching": off,
        });
        assert_eq!(read(&spec).unwrap().batching, Batching::Off);
    }
    assert_eq!(
        said("/batching", json!(true)),
        ["spec.batching: \"true\" is unknown; one of auto, off, or a section"]
    );
    assert_eq!(read(&spec()).map(|model| model.idempotent), Ok(false), "a flag stays one");
}

#[test]
fn errors_are_sentences_with_paths_and_without_lines() {
    let cases = [
        ("/slo/p95", json!(200), "spec.slo.p95: \"200\" needs a unit; write 200ms or 0.2s"),
        (
            "/slo/p95",
            json!(null),
            "spec.slo.p95: has no value; write a duration with its unit, like 200ms, 1.5s or \
          10m, or remove the key",
        ),
        (
            "/slo/p99",
            json!("1s"),
            "spec.slo.p99: only one percentile can be the objective, and there is p95 \
          already; remove one of them",
        ),
        ("/scaling/min", json!(5), "spec.scaling.min: 5 is more than max 4"),
        ("/scaling/max", json!("4"), "spec.scaling.max: \"4\" is a text here; write 4, without quotes"),
        ("/scaling/maxReplicas", json!(4), "spec.scaling.maxReplicas: unknown key, did you mean max?"),
        ("/scaling", json!([]), "spec.scaling: a list cannot stand here; write a section: keys with values"),
        (
            "/batching/maxHold",
            json!("20ms"),
            "spec.batching.maxHold: rows are held 20ms, which leaves nothing of \
          slo.p95 20ms; try at most 2ms, or batching: auto",
        ),
        (
            "/queue",
            json!({"maxBytes": "1GiB"}),
            "spec.queue.maxBytes: 1GiB is more than limits.memory 512MiB",
        ),
        (
            "/coldStartTimeout",
            json!("1s"),
            "spec.coldStartTimeout: unknown key here; there is \
          spec.scaling.coldStartTimeout",
        ),
        (
            "/tenants",
            json!({"a": "10"}),
            "spec.tenants: tenants are not supported by this version; remove them",
        ),
        (
            "/protocol",
            json!("v3"),
            "spec.protocol: \"v3\" is unknown, did you mean v1?; one of v2-grpc, v2-http, v1, \
          openai",
        ),
    ];
    for (pointer, value, sentence) in cases {
        assert_eq!(said(pointer, value), [sentence]);
    }
    let overlapping = json!([
        {"name": "a", "timezone": "Europe/Prague", "from": "08:00", "to": "20:00", "min": 2},
        {"name": "b", "timezone": "Europe/Prague", "from": "18:00", "to": "22:00", "max": 1},
    ]);
    let said = said("/scaling/schedules", overlapping);
    let sentence = "spec.scaling.schedules[0]: min 2 is more than max 1 of \"b\", and both apply at times; let the \
                    windows not overlap";
    assert_eq!(said, [sentence]);
}

#[test]
fn a_resource_stays_in_its_namespace() {
    assert_eq!(said("/fleet/kubernetes/namespace", json!("ml")), [""; 0]);
    assert_eq!(
        said("/fleet/kubernetes/namespace", json!("kube-system")),
        ["spec.fleet.kubernetes.namespace: \"kube-system\" is not the resource's own, \"ml\"; remove it"]
    );
}

#[test]
fn a_resource_is_for_kubernetes_only() {
    assert_eq!(
        said("/fleet", json!({"process": {"command": ["serve", "{port}"]}})),
        [
            "spec.fleet.process: a Model resource is for replicas in Kubernetes; use kubernetes, or the configuration \
          file"
        ]
    );
    assert_eq!(
        said("/fleet", json!({"static": {"addresses": ["a:1"]}})).len(),
        1,
        "the warning about scaling is no error"
    );
}

#[test]
fn the_name_is_the_resources() {
    assert_eq!(said("/name", json!("other")).len(), 1);
    let long = "n".repeat(129);
    let said = resource("ml", &long, &spec(), &limits()).unwrap_err();
    assert!(said[0].starts_with("metadata.name: \"nnn"), "{said:?}");
}

#[test]
fn what_is_no_spec_is_refused_and_never_at_length() {
    for spec in [json!(null), json!([]), json!("spec"), json!({})] {
        assert!(!read(&spec).unwrap_err().is_empty(), "{spec}");
    }
    let spec: Value = (0..1000).map(|i| (format!("key{i}"), json!(1))).collect();
    let said = read(&spec).unwrap_err();
    assert_eq!(said.len(), 21);
    assert_eq!(said.last().unwrap(), "and 981 more");
}
