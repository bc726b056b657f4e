//! Creates, updates, patches and applies that come over HTTP.

use std::sync::Arc;

use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::{
    answer::{Asked, Below, Subject, parse, same_name, writer},
    cluster::Cluster,
    fields::{self, Taken},
    kinds::{Kind, ScalePaths, Update},
    object::{Object, meta_mut, set_at},
    patch,
    refusal::{FieldFault, Refusal},
    route::Verb,
    rules, scale,
    service::text,
    store::{Operation, Writer},
};

/// Whole objects come as JSON; typed clients that insist on another encoding are told so.
pub(crate) fn check_media(asked: &Asked<'_>) -> Result<(), Refusal> {
    let media = text(asked.headers, &header::CONTENT_TYPE).unwrap_or_default();
    match media.split(';').next().unwrap_or_default().trim() {
        "application/json" | "" => Ok(()),
        _ => Err(Refusal::unknown_format()),
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
    let media = media.split(';').next().unwrap_or_default().trim();
    let patch: fn(&Value, &Value) -> Result<Value, Refusal> = match media {
        "application/merge-patch+json" => |old, patch| {
            let mut new = old.clone();
            patch::merge(&mut new, patch);
            Ok(new)
        },
        "application/strategic-merge-patch+json" if !subject.kind.custom => |old, patch| {
            let mut new = old.clone();
            patch::strategic(&mut new, patch);
            Ok(new)
        },
        "application/json-patch+json" => {
            |old, patch| patch::json_patch(old, patch).map_err(|patch::Unfit| Refusal::unprocessable())
        }
        "application/apply-patch+yaml" => return apply(cluster, asked, subject),
        _ => return Err(Refusal::unsupported_media_type()),
    };
    let change = parse(&asked.call.body)?;
    let writer = writer(cluster, asked, Operation::Update);
    let patched = patched(cluster, subject, &writer, |old| patch(old, &change))?;
    Ok((StatusCode::OK, patched))
}

fn patched(
    cluster: &Cluster,
    subject: &Subject,
    writer: &Writer,
    patch: impl FnOnce(&Value) -> Result<Value, Refusal>,
) -> Result<Arc<Object>, Refusal> {
    let (kind, key) = (&subject.kind, subject.key());
    let mut store = cluster.store();
    if let Below::Scale(paths) = &subject.below {
        let shown = scale::view(paths, store.get(kind, key)?);
        let scaled = patch(&shown)?;
        return store
            .update(kind, key, subject.part(), writer, |old| scale::write(kind, paths, old, &scaled));
    }
    store.update(kind, key, subject.part(), writer, |old| {
        let new = patch(old)?;
        same_name(subject, &new)?;
        Ok(new)
    })
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
        let put = cluster.store().update(kind, subject.key(), subject.part(), &writer, |old| {
            scale::write(kind, paths, old, &scaled)
        })?;
        return Ok((StatusCode::OK, put));
    }
    let mut object = body(asked, subject)?;
    let mut store = cluster.store();
    let absent = store.table(kind).get(subject.key()).is_none();
    if absent && kind.update == Update::OrCreate {
        meta_mut(&mut object).insert("name".into(), subject.name.as_str().into());
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
        let mut object = applied;
        meta_mut(&mut object).insert("name".into(), subject.name.as_str().into());
        let made = store.create(kind, &subject.namespace, object, &writer)?;
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
        Below::Itself | Below::Status => body(asked, subject),
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
    let words: Vec<String> = found.iter().map(|taken| format!("{}: {}", taken.words(), taken.path)).collect();
    let cause = |taken: &Taken| json!({ "reason": "FieldManagerConflict", "message": taken.words(), "field": taken.path });
    let causes: Vec<Value> = found.iter().map(cause).collect();
    let count = match found.len() {
        1 => "1 conflict".to_owned(),
        more => format!("{more} conflicts"),
    };
    let message = format!("Apply failed with {count}: {}", words.join(", "));
    Err(Refusal::new(409, "Conflict", message).detailed(json!({ "causes": causes })))
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
