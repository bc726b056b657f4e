//! What the server fills in and refuses, kind by kind: no more than clients of a scaling system notice.
//!
//! There is no schema validation: a field this module does not name is kept as it came.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    clock::stamp,
    kinds::{CRDS, Kind, NAMESPACES},
    object::{child, map_at, meta_text},
    refusal::{FieldFault, Refusal},
    selector::Labels,
};

const NAME_MAX: usize = 253;

pub(crate) fn fill(kind: &Kind, object: &mut Value, now: Timestamp) {
    object["apiVersion"] = kind.api_version(kind.preferred()).into();
    object["kind"] = kind.kind.as_str().into();
    match kind.resource().as_str() {
        "deployments.apps" => fill_deployment(object),
        "statefulsets.apps" | "replicasets.apps" => set_absent(object, "spec", &[("replicas", 1.into())]),
        "services" => fill_service(object),
        "endpointslices.discovery.k8s.io" => fill_slice(object),
        "horizontalpodautoscalers.autoscaling" => set_absent(object, "spec", &[("minReplicas", json!(1))]),
        "pods" => {
            let grace = ("terminationGracePeriodSeconds", json!(30));
            set_absent(object, "spec", &[("restartPolicy", "Always".into()), grace]);
            set_absent(object, "status", &[("phase", "Pending".into())]);
        }
        NAMESPACES => fill_namespace(object),
        CRDS => fill_definition(object, now),
        _ => {}
    }
}

fn fill_deployment(object: &mut Value) {
    let strategy = json!({
        "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": "25%", "maxSurge": "25%" },
    });
    let filled = [
        ("replicas", json!(1)),
        ("strategy", strategy),
        ("revisionHistoryLimit", json!(10)),
        ("progressDeadlineSeconds", json!(600)),
    ];
    set_absent(object, "spec", &filled);
    map_at(object, "status");
}

fn fill_slice(object: &mut Value) {
    for port in object.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(port) = port.as_object_mut() {
            port.entry("protocol").or_insert_with(|| "TCP".into());
            port.entry("name").or_insert_with(|| "".into());
        }
    }
}

fn fill_service(object: &mut Value) {
    // Any address of the service range will do: nothing routes to it.
    let name = meta_text(object, "name");
    let sum = name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let address = format!("10.96.{}.{}", (sum >> 8) & 0xff, sum & 0xff);
    let filled = [
        ("type", "ClusterIP".into()),
        ("sessionAffinity", "None".into()),
        ("clusterIPs", json!([address])),
        ("clusterIP", address.into()),
        ("internalTrafficPolicy", "Cluster".into()),
    ];
    set_absent(object, "spec", &filled);
    for port in child(object, "spec").get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let number = port["port"].clone();
        if let Some(port) = port.as_object_mut() {
            port.entry("protocol").or_insert_with(|| "TCP".into());
            port.entry("targetPort").or_insert(number);
        }
    }
    let status = map_at(object, "status");
    status.entry("loadBalancer").or_insert_with(|| json!({}));
}

fn fill_namespace(object: &mut Value) {
    let name = meta_text(object, "name").to_owned();
    let labels = map_at(child(object, "metadata"), "labels");
    labels.insert("kubernetes.io/metadata.name".into(), name.into());
    set_absent(object, "spec", &[("finalizers", json!(["kubernetes"]))]);
    set_absent(object, "status", &[("phase", "Active".into())]);
}

fn fill_definition(object: &mut Value, now: Timestamp) {
    let kind = object["spec"]["names"]["kind"].as_str().unwrap_or_default().to_owned();
    let names = map_at(child(object, "spec"), "names");
    names.entry("singular").or_insert_with(|| kind.to_lowercase().into());
    names.entry("listKind").or_insert_with(|| format!("{kind}List").into());
    let names = Value::Object(names.clone());
    set_absent(object, "spec", &[("conversion", json!({ "strategy": "None" }))]);
    let stored = object["spec"]["versions"].as_array().into_iter().flatten();
    let stored: Vec<Value> =
        stored.filter(|version| version["storage"] == true).map(|version| version["name"].clone()).collect();
    let condition = |name: &str, reason: &str, message: &str| {
        json!({
            "type": name, "status": "True", "lastTransitionTime": stamp(now), "reason": reason, "message": message,
        })
    };
    let conditions = json!([
        condition("NamesAccepted", "NoConflicts", "no conflicts found"),
        condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ]);
    let filled = [("acceptedNames", names), ("storedVersions", stored.into()), ("conditions", conditions)];
    set_absent(object, "status", &filled);
}

/// Sets members of a part of the object that are not there yet.
fn set_absent(object: &mut Value, part: &str, members: &[(&str, Value)]) {
    let part = map_at(object, part);
    for (member, value) in members {
        part.entry(*member).or_insert_with(|| value.clone());
    }
}

pub(crate) fn check(kind: &Kind, object: &Value) -> Result<(), Refusal> {
    match kind.resource().as_str() {
        "deployments.apps" | "statefulsets.apps" | "replicasets.apps" => check_workload(kind, object),
        "leases.coordination.k8s.io" => check_lease(kind, object),
        "configmaps" => check_texts(kind, object, "data"),
        CRDS => check_definition(kind, object),
        _ => Ok(()),
    }
}

fn check_workload(kind: &Kind, object: &Value) -> Result<(), Refusal> {
    let spec = &object["spec"];
    check_replicas(kind, object, &spec["replicas"])?;
    if spec["selector"].as_object().is_none_or(serde_json::Map::is_empty) {
        return Err(invalid(kind, object, ("spec.selector", FieldFault::Required, "Required value")));
    }
    let selector = Labels::of_object(&spec["selector"]);
    if !selector.matches(&spec["template"]["metadata"]["labels"]) {
        let labels = serde_json::to_string(&spec["template"]["metadata"]["labels"]).unwrap_or_default();
        let message = format!("Invalid value: {labels}: `selector` does not match template `labels`");
        let field = ("spec.template.metadata.labels", FieldFault::Invalid, message.as_str());
        return Err(invalid(kind, object, field));
    }
    Ok(())
}

/// `replicas` must be a whole number, and not below zero.
pub(crate) fn check_replicas(kind: &Kind, object: &Value, replicas: &Value) -> Result<(), Refusal> {
    let Some(replicas) = replicas.as_i64().filter(|&count| i32::try_from(count).is_ok()) else {
        let message = format!("json: cannot unmarshal {replicas} into field spec.replicas of type int32");
        return Err(undecodable(kind, &message));
    };
    if replicas < 0 {
        let message = format!("Invalid value: {replicas}: must be greater than or equal to 0");
        return Err(invalid(kind, object, ("spec.replicas", FieldFault::Invalid, &message)));
    }
    Ok(())
}

fn check_lease(kind: &Kind, object: &Value) -> Result<(), Refusal> {
    let spec = &object["spec"];
    for member in ["acquireTime", "renewTime"] {
        let Some(time) = spec[member].as_str() else { continue };
        if !is_micro_time(time) {
            let message = format!(
                "parsing time \"{time}\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"{time}\""
            );
            return Err(undecodable(kind, &message));
        }
    }
    let durations = [
        ("leaseDurationSeconds", 1, "must be greater than 0"),
        ("leaseTransitions", 0, "must be greater than or equal to 0"),
    ];
    for (member, least, rule) in durations {
        if let Some(count) = spec[member].as_i64().filter(|&count| count < least) {
            let (path, message) = (format!("spec.{member}"), format!("Invalid value: {count}: {rule}"));
            return Err(invalid(kind, object, (&path, FieldFault::Invalid, &message)));
        }
    }
    Ok(())
}

/// RFC 3339 with exactly six digits of a second: the server reads no other.
fn is_micro_time(time: &str) -> bool {
    let Some((_, rest)) = time.split_once('.') else { return false };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    digits == 6 && time.parse::<Timestamp>().is_ok()
}

fn check_texts(kind: &Kind, object: &Value, member: &str) -> Result<(), Refusal> {
    let values = object[member].as_object().into_iter().flatten();
    for (_, value) in values {
        if !value.is_string() {
            let message = format!("json: cannot unmarshal {value} into field {member} of type string");
            return Err(undecodable(kind, &message));
        }
    }
    Ok(())
}

fn check_definition(kind: &Kind, object: &Value) -> Result<(), Refusal> {
    let spec = &object["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let expected = format!("{}.{}", text(&spec["names"]["plural"]), text(&spec["group"]));
    if meta_text(object, "name") != expected {
        let message = format!(
            "Invalid value: \"{}\": must be spec.names.plural+\".\"+spec.group",
            meta_text(object, "name")
        );
        return Err(invalid(kind, object, ("metadata.name", FieldFault::Invalid, &message)));
    }
    let versions = spec["versions"].as_array().into_iter().flatten();
    if versions.filter(|version| version["storage"] == true).count() != 1 {
        let message = "Invalid value: must have exactly one version marked as storage version";
        return Err(invalid(kind, object, ("spec.versions", FieldFault::Invalid, message)));
    }
    Ok(())
}

pub(crate) fn check_name(kind: &Kind, name: &str) -> Result<(), Refusal> {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let bytes = name.as_bytes();
    let fits = name.len() <= NAME_MAX && edge(bytes.first()) && edge(bytes.last()) && name.bytes().all(inner);
    if fits {
        return Ok(());
    }
    let message = format!(
        "Invalid value: \"{name}\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
         characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex \
         used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    );
    Err(Refusal::invalid(&kind.group, &kind.kind, name, ("metadata.name", FieldFault::Invalid, &message)))
}

pub(crate) fn no_name(kind: &Kind) -> Refusal {
    let field = ("metadata.name", FieldFault::Required, "Required value: name or generateName is required");
    Refusal::invalid(&kind.group, &kind.kind, "", field)
}

/// A PUT without a version, to a kind that does not take it.
pub(crate) fn no_version(kind: &Kind, name: &str) -> Refusal {
    let message = "Invalid value: 0: must be specified for an update";
    Refusal::invalid(
        &kind.group,
        &kind.plural,
        name,
        ("metadata.resourceVersion", FieldFault::Invalid, message),
    )
}

fn invalid(kind: &Kind, object: &Value, field: (&str, FieldFault, &str)) -> Refusal {
    Refusal::invalid(&kind.group, &kind.kind, meta_text(object, "name"), field)
}

fn undecodable(kind: &Kind, why: &str) -> Refusal {
    let (name, version) = (&kind.kind, kind.preferred());
    Refusal::bad_request(format!("{name} in version \"{version}\" cannot be handled as a {name}: {why}"))
}
