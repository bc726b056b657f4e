//! What a write may change, must match, and brings about: the parts of objects that belong to the server.

use serde_json::Value;

use crate::{
    defaults, fields,
    kinds::{Fields, Generation, Kind, Status, Update},
    object::{Object, meta_mut, meta_text},
    refusal::{FieldFault, Refusal},
    store::{Deletion, Operation, Part, Writer},
};

pub(crate) fn drop_status(object: &mut Value) {
    if let Some(members) = object.as_object_mut() {
        members.remove("status");
    }
}

/// Everything below relies on objects being maps.
pub(crate) fn check_is_map(kind: &Kind, object: &Value) -> Result<(), Refusal> {
    if object.is_object() {
        return Ok(());
    }
    Err(Refusal::bad_request(format!("the object provided is unrecognized (must be of type {})", kind.kind)))
}

/// The version, uid, name and namespace that a new state claims must be those of the object.
pub(crate) fn check_identity(kind: &Kind, old: &Object, new: &Value) -> Result<(), Refusal> {
    let asked = meta_text(new, "uid");
    if !asked.is_empty() && asked != old.uid() {
        return Err(Refusal::other_uid_in_store(kind, old, asked));
    }
    let asked = meta_text(new, "resourceVersion");
    if asked.is_empty() && kind.update != Update::Unconditional {
        return Err(defaults::no_version(kind, &old.name));
    }
    if !asked.is_empty() && asked != old.revision.to_string() {
        return Err(Refusal::stale(kind, &old.name));
    }
    Ok(())
}

/// A patch that sets another uid is invalid; only a PUT with one is a conflict.
pub(crate) fn check_same_uid(kind: &Kind, old: &Value, new: &Value) -> Result<(), Refusal> {
    let asked = meta_text(new, "uid");
    if asked == meta_text(old, "uid") {
        return Ok(());
    }
    let message = format!("Invalid value: \"{asked}\": field is immutable");
    let field = ("metadata.uid", FieldFault::Invalid, message.as_str());
    Err(Refusal::invalid(&kind.group, &kind.kind, meta_text(old, "name"), field))
}

/// Puts back what this kind of write must not change.
pub(crate) fn restore(kind: &Kind, old: &Value, new: &mut Value, part: Part) {
    let split = kind.status == Status::Subresource;
    match part {
        Part::Main if split => {
            drop_status(new);
            if let Some(status) = old.get("status") {
                new["status"] = status.clone();
            }
        }
        Part::Status => {
            let status = new.get("status").cloned();
            let annotations = new["metadata"].get("annotations").cloned();
            *new = old.clone();
            if kind.generation == Generation::SpecAndAnnotations
                && let Some(annotations) = annotations
            {
                meta_mut(new).insert("annotations".into(), annotations);
            }
            drop_status(new);
            if let Some(status) = status {
                new["status"] = status;
            }
        }
        Part::Main | Part::Whole => {}
    }
    for member in ["apiVersion", "kind"] {
        new[member] = old[member].clone();
    }
    let meta = meta_mut(new);
    const FIXED: [&str; 8] = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
    ];
    for member in FIXED {
        meta.remove(member);
        if let Some(value) = old["metadata"].get(member) {
            meta.insert(member.into(), value.clone());
        }
    }
}

pub(crate) fn track(kind: &Kind, old: Option<&Value>, new: &mut Value, writer: &Writer) {
    if kind.fields == Fields::Untracked {
        return;
    }
    match &writer.operation {
        Operation::Update => fields::track(old, new, writer),
        Operation::Apply(applied) => fields::track_applied(old, new, applied, writer),
    }
}

pub(crate) fn generation_rises(kind: &Kind, old: &Value, new: &Value, part: Part) -> bool {
    let spec = || old.get("spec") != new.get("spec");
    match kind.generation {
        Generation::None => false,
        Generation::Spec => spec(),
        Generation::SpecAndAnnotations => {
            let annotations = old["metadata"]["annotations"] != new["metadata"]["annotations"];
            spec() || (annotations && part != Part::Status)
        }
        Generation::Everything => {
            let counts =
                |key: &str| key != "metadata" && !(key == "status" && kind.status == Status::Subresource);
            let old = old.as_object().into_iter().flatten().filter(|(key, _)| counts(key));
            let new = new.as_object().into_iter().flatten().filter(|(key, _)| counts(key));
            !old.eq(new)
        }
    }
}

/// It was only waiting for its finalizers, and has none left.
pub(crate) fn is_released(object: &Value) -> bool {
    let meta = &object["metadata"];
    meta["deletionTimestamp"].is_string()
        && meta["deletionGracePeriodSeconds"].as_u64().unwrap_or(0) == 0
        && meta["finalizers"].as_array().is_none_or(Vec::is_empty)
}

pub(crate) fn check_preconditions(kind: &Kind, object: &Object, how: &Deletion) -> Result<(), Refusal> {
    let check = |what: &str, asked: Option<&String>, actual: &str, perhaps: &str| match asked {
        Some(asked) if asked != actual => {
            let why = format!(
                "the {what} in the precondition ({asked}) does not match the {what} in record ({actual}). The object \
                 might have been {perhaps}"
            );
            Err(Refusal::precondition(kind, &object.name, &why))
        }
        _ => Ok(()),
    };
    check("UID", how.uid.as_ref(), object.uid(), "deleted and then recreated")?;
    check("ResourceVersion", how.resource_version.as_ref(), &object.revision.to_string(), "modified")
}

/// Only pods that run somewhere are given time.
pub(crate) fn grace_of(kind: &Kind, object: &Value, how: &Deletion) -> u64 {
    let runs = kind.resource() == "pods"
        && object["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty())
        && !matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !runs {
        return 0;
    }
    how.grace.or_else(|| object["spec"]["terminationGracePeriodSeconds"].as_u64()).unwrap_or(30)
}
