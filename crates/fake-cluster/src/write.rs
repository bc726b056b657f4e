//! Creates, updates, patches and applies that come over HTTP.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::{
    answer::{Asked, Below, Subject, parse, same_name, writer},
    cluster::Cluster,
    fields::{self, Taken},
    kinds::{Kind, ScalePaths, Update},
    object::{Object, meta_text, set_at},
    patch,
    refusal::{FieldFault, Refusal},
    route::Verb,
    rules, scale,
    service::text,
    store::{Operation, Writer},
};

const WHOLE: &str = "application/json";
const PATCHES_OF_CUSTOM: &str =
    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";

/// Whole objects come as JSON; typed clients that insist on another encoding are told so.
pub(crate) fn check_media(asked: &Asked<'_>) -> Result<(), Refusal> {
    let media = text(asked.headers, &header::CONTENT_TYPE).unwrap_or_default();
    match media.split(';').next().unwrap_or_default().trim() {
        "application/json" | "" => Ok(()),
        _ => Err(Refusal::unknown_format(WHOLE)),
    }
}

pub(crate) fn create(
    cluster: &Cluster,
    asked: &Asked<'_>,
    subject: &Subject,
) -> Result<Arc<Object>, Refusal> {
    if !asked.target.subresource.is_empty() || (subject.kind.namespaced() && subject.namespace.is_empty()) {
        return Err(Refusal::method_not_allowed());
    }
    let object = body(asked, subject)?;
    let writer = writer(cluster, asked, Operation::Update);
    cluster.store().create(&subject.kind, &subject.namespace, object, &writer)
}

/// A PUT or PATCH, with the code of its answer.
pub(crate) fn change(
    cluster: &Cluster,
    asked: &Asked<'_>,
    subject: &Subject,
) -> Result<(StatusCode, Arc<Object>), Refusal> {
    if asked.verb == Verb::Update {
        return put(cluster, asked, subject);
    }
    let media = text(asked.headers, &header::CONTENT_TYPE).unwrap_or_default();
    let patch: fn(&Value, &Value) -> Value = match media.split(';').next().unwrap_or_default().trim() {
        "application/merge-patch+json" => |old, patch| {
            let mut new = old.clone();
            patch::merge(&mut new, patch);
            new
        },
        "application/strategic-merge-patch+json" if !subject.kind.custom => |old, patch| {
            let mut new = old.clone();
            patch::strategic(&mut new, patch);
            new
        },
        "application/json-patch+json" => {
            let operations = decoded_patch(&asked.call.body, Value::is_array)?;
            return patched(cluster, asked, subject, |old| {
                let new =
                    patch::json_patch(old, &operations).map_err(|patch::Unfit| Refusal::unprocessable())?;
                if new.is_object() { Ok(new) } else { Err(Refusal::unprocessable()) }
            });
        }
        "application/apply-patch+yaml" => return apply(cluster, asked, subject),
        "application/strategic-merge-patch+json" => return Err(Refusal::unknown_format(PATCHES_OF_CUSTOM)),
        _ => return Err(Refusal::unsupported_media_type()),
    };
    let change = decoded_patch(&asked.call.body, Value::is_object)?;
    patched(cluster, asked, subject, |old| Ok(patch(old, &change)))
}

fn decoded_patch(body: &Bytes, fits: fn(&Value) -> bool) -> Result<Value, Refusal> {
    let error = |why: String| Refusal::bad_request(format!("error decoding patch: {why}"));
    let patch: Value = serde_json::from_slice(body).map_err(|why| error(why.to_string()))?;
    if fits(&patch) { Ok(patch) } else { Err(error("json: cannot unmarshal into Go value".to_owned())) }
}

fn patched(
    cluster: &Cluster,
    asked: &Asked<'_>,
    subject: &Subject,
    patch: impl FnOnce(&Value) -> Result<Value, Refusal>,
) -> Result<(StatusCode, Arc<Object>), Refusal> {
    let writer = writer(cluster, asked, Operation::Update);
    let (kind, key) = (&subject.kind, subject.key());
    let mut store = cluster.store();
    let patched = if let Below::Scale(paths) = &subject.below {
        let scaled = patch(&scale::view(kind, paths, store.get(kind, key)?)?)?;
        store.update(kind, key, subject.part(), &writer, |old| scale::write(kind, paths, old, &scaled))?
    } else {
        store.update(kind, key, subject.part(), &writer, |old| {
            let new = patch(old)?;
            same_name(subject, &new)?;
            rules::check_same_uid(kind, old, &new)?;
            Ok(new)
        })?
    };
    Ok((StatusCode::OK, patched))
}

fn put(
    cluster: &Cluster,
    asked: &Asked<'_>,
    subject: &Subject,
) -> Result<(StatusCode, Arc<Object>), Refusal> {
    let writer = writer(cluster, asked, Operation::Update);
    let kind = &subject.kind;
    if let Below::Scale(paths) = &subject.below {
        let scaled = parse(&asked.call.body)?;
        if meta_text(&scaled, "name").is_empty() {
            return Err(Refusal::nameless(&subject.name));
        }
        let put = cluster.store().update(kind, subject.key(), subject.part(), &writer, |old| {
            scale::write(kind, paths, old, &scaled)
        })?;
        return Ok((StatusCode::OK, put));
    }
    let object = body(asked, subject)?;
    if meta_text(&object, "name").is_empty() {
        return Err(Refusal::nameless(&subject.name));
    }
    let mut store = cluster.store();
    let absent = store.table(kind).get(subject.key()).is_none();
    if absent && kind.update == Update::OrCreate {
        let made = store.create(kind, &subject.namespace, object, &writer)?;
        return Ok((StatusCode::CREATED, made));
    }
    let put = store.update(kind, subject.key(), subject.part(), &writer, |_| Ok(object))?;
    Ok((StatusCode::OK, put))
}

/// Server-side apply. Who owns what is told of lists as a whole, though those of built-in kinds are merged by key.
fn apply(
    cluster: &Cluster,
    asked: &Asked<'_>,
    subject: &Subject,
) -> Result<(StatusCode, Arc<Object>), Refusal> {
    if asked.query.text("fieldManager").is_empty() {
        let field = ("fieldManager", FieldFault::Required, "Required value: is required for apply patch");
        return Err(Refusal::invalid("meta.k8s.io", "PatchOptions", "", field));
    }
    let applied = applied(asked, subject)?;
    let writer = writer(cluster, asked, Operation::Apply(applied.clone()));
    let (kind, key) = (&subject.kind, subject.key());
    let mut store = cluster.store();
    let Some(live) = store.table(kind).get(key).cloned() else {
        if !matches!(subject.below, Below::Itself) {
            return Err(Refusal::not_found(kind, &subject.name));
        }
        if meta_text(&applied, "name").is_empty() {
            return Err(Refusal::nameless(&subject.name));
        }
        let made = store.create(kind, &subject.namespace, applied, &writer)?;
        return Ok((StatusCode::CREATED, made));
    };
    if !asked.query.is("force") {
        check_conflicts(kind, &live.value, &applied, &writer)?;
    }
    let abandoned = fields::abandoned(&live.value, &applied, &writer);
    let written = store.update(kind, key, subject.part(), &writer, |old| {
        let mut new = old.clone();
        for path in &abandoned {
            if let Some(members) = new.as_object_mut() {
                fields::remove_at(members, path);
            }
        }
        merge_applied(kind, &mut new, &applied);
        Ok(new)
    })?;
    Ok((StatusCode::OK, written))
}

/// The applied configuration, in terms of the object that is stored.
fn applied(asked: &Asked<'_>, subject: &Subject) -> Result<Value, Refusal> {
    match &subject.below {
        Below::Itself | Below::Status => {
            let applied = body(asked, subject)?;
            if applied["kind"].is_null() || applied["apiVersion"].is_null() {
                return Err(Refusal::bad_request("invalid object type: /, Kind="));
            }
            Ok(applied)
        }
        Below::Scale(ScalePaths { spec, .. }) => {
            let scale = parse(&asked.call.body)?;
            let mut applied = json!({});
            set_at(&mut applied, spec, scale["spec"]["replicas"].clone());
            Ok(applied)
        }
    }
}

fn merge_applied(kind: &Kind, object: &mut Value, applied: &Value) {
    if kind.custom {
        patch::merge(object, applied);
    } else {
        patch::strategic(object, applied);
    }
}

fn check_conflicts(kind: &Kind, live: &Value, applied: &Value, writer: &Writer) -> Result<(), Refusal> {
    let mut merged = live.clone();
    merge_applied(kind, &mut merged, applied);
    let found = fields::conflicts(live, (applied, &merged), writer);
    if found.is_empty() {
        return Ok(());
    }
    let cause = |taken: &Taken| {
        let message = format!("conflict with {}", taken.owner);
        json!({ "reason": "FieldManagerConflict", "message": message, "field": taken.path })
    };
    let causes: Vec<Value> = found.iter().map(cause).collect();
    let message = match found.as_slice() {
        [one] => format!("Apply failed with 1 conflict: conflict with {}: {}", one.owner, one.path),
        several => format!("Apply failed with {} conflicts: {}", several.len(), by_owner(several)),
    };
    Err(Refusal::new(409, "Conflict", message).detailed(json!({ "causes": causes })))
}

fn by_owner(taken: &[Taken]) -> String {
    let mut owners: BTreeMap<&str, String> = BTreeMap::new();
    for Taken { owner, path } in taken {
        let listed = owners.entry(owner).or_insert_with(|| format!("conflicts with {owner}:"));
        listed.push_str("\n- ");
        listed.push_str(path);
    }
    owners.into_values().collect::<Vec<_>>().join("\n")
}

/// The object in a body, checked against the path.
fn body(asked: &Asked<'_>, subject: &Subject) -> Result<Value, Refusal> {
    let object = parse(&asked.call.body)?;
    let kind = &subject.kind;
    let expected = kind.api_version(&asked.target.version);
    rules::check_is_map(kind, &object)?;
    if let Some(version) = object["apiVersion"].as_str().filter(|version| *version != expected) {
        let message = format!(
            "the API version in the data ({version}) does not match the expected API version ({expected})"
        );
        return Err(Refusal::bad_request(message));
    }
    if kind.custom && object["kind"].is_null() {
        let message = format!(
            "the object provided is unrecognized (must be of type {}): Object 'Kind' is missing in '{object}'",
            kind.kind
        );
        return Err(Refusal::bad_request(message));
    }
    if let Some(named) = object["kind"].as_str().filter(|named| *named != kind.kind) {
        let (version, wanted) = (&asked.target.version, &kind.kind);
        let message = format!(
            "{named} in version \"{version}\" cannot be handled as a {wanted}: converting ({version}.{named}) to \
             ({wanted}): unknown conversion"
        );
        return Err(Refusal::bad_request(message));
    }
    same_name(subject, &object)?;
    Ok(object)
}
