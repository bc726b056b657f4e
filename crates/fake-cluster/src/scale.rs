//! The scale subresource: `autoscaling/v1` Scale as a view of any object that declares one.

use serde_json::{Value, json};

use crate::{
    defaults,
    kinds::{Kind, ScalePaths, ScaleSelector},
    object::{Object, at, meta_text, set_at},
    refusal::{FieldFault, Refusal},
    selector::Labels,
};

/// The Scale of an object.
pub(crate) fn view(kind: &Kind, paths: &ScalePaths, object: &Object) -> Result<Value, Refusal> {
    let meta = &object.value["metadata"];
    let replicas = |path: &[String]| at(&object.value, path).and_then(Value::as_i64);
    let mut spec = json!({});
    match replicas(&paths.spec) {
        Some(0) => {}
        Some(replicas) => spec["replicas"] = replicas.into(),
        None if kind.custom => {
            let path = paths.spec.join(".");
            let message = format!("the spec replicas field \".{path}\" does not exist");
            return Err(Refusal::internal(&message).detailed(json!({ "causes": [{ "message": message }] })));
        }
        None => {}
    }
    let mut status = json!({ "replicas": replicas(&paths.status).unwrap_or(0) });
    let selector = selector(&paths.selector, &object.value);
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let mut kept = json!({});
    for member in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = meta.get(member) {
            kept[member] = value.clone();
        }
    }
    Ok(
        json!({ "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept, "spec": spec, "status": status }),
    )
}

fn selector(selector: &ScaleSelector, object: &Value) -> String {
    match selector {
        ScaleSelector::Object(path) => {
            at(object, path).map(|selector| Labels::of_object(selector).to_text()).unwrap_or_default()
        }
        ScaleSelector::Text(path) => at(object, path).and_then(Value::as_str).unwrap_or_default().to_owned(),
        ScaleSelector::None => String::new(),
    }
}

/// What the object becomes by a Scale written over the one it shows.
pub(crate) fn write(
    kind: &Kind,
    paths: &ScalePaths,
    object: &Value,
    scale: &Value,
) -> Result<Value, Refusal> {
    let replicas = &scale["spec"]["replicas"];
    let replicas = if replicas.is_null() { json!(0) } else { replicas.clone() };
    let (name, uid) = (meta_text(scale, "name"), meta_text(scale, "uid"));
    if !name.is_empty() && name != meta_text(object, "name") {
        let url = meta_text(object, "name");
        let message = format!("the name of the object ({name}) does not match the name on the URL ({url})");
        return Err(Refusal::bad_request(message));
    }
    // Of a custom resource's Scale the server ignores the uid.
    if !kind.custom && !uid.is_empty() && uid != meta_text(object, "uid") {
        let mut below = kind.clone();
        below.plural = format!("{}/scale", kind.plural);
        return Err(Refusal::other_uid(&below, meta_text(object, "name"), uid, meta_text(object, "uid")));
    }
    match replicas.as_i64() {
        Some(below) if kind.custom && below < 0 => {
            let path = format!(".{}", paths.spec.join("."));
            let message = format!("Invalid value: {below}: should be a non-negative integer");
            let field = (path.as_str(), FieldFault::Invalid, message.as_str());
            return Err(Refusal::invalid(&kind.group, &kind.kind, meta_text(object, "name"), field));
        }
        _ => defaults::check_replicas(&Kind::scale(), object, &replicas)?,
    }
    let mut new = object.clone();
    set_at(&mut new, &paths.spec, replicas);
    let asked = meta_text(scale, "resourceVersion");
    if !asked.is_empty() {
        new["metadata"]["resourceVersion"] = asked.into();
    }
    Ok(new)
}
