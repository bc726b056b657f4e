//! Requests for resources, answered from the store, in the words and codes of the real server.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    body::Body,
    cluster::Cluster,
    discovery::{self, Page},
    kinds::{Kind, ScalePaths, Status},
    list,
    log::Call,
    object::{Object, View, meta_text, to_json},
    refusal::Refusal,
    route::{Query, Target, Verb},
    scale,
    selector::Filter,
    service::text,
    store::{Deleted, Deletion, Effect, Key, Operation, Part, Writer},
    watch::{Shown, Watch, parse_version},
    write,
};

/// How long the real server waits for a version it has not reached.
const VERSION_WAIT: Duration = Duration::from_secs(3);

/// A request for a resource.
pub(crate) struct Asked<'a> {
    pub(crate) verb: Verb,
    pub(crate) target: Target,
    pub(crate) query: Query,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) call: Arc<Call>,
}

/// Which part of which object a request is about.
pub(crate) struct Subject {
    pub(crate) kind: Arc<Kind>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) below: Below,
}

/// The object itself or what lies below it.
#[derive(Clone, Debug)]
pub(crate) enum Below {
    Itself,
    Status,
    Scale(ScalePaths),
}

impl Subject {
    pub(crate) fn key(&self) -> Key<'_> {
        Key { namespace: &self.namespace, name: &self.name }
    }

    pub(crate) fn part(&self) -> Part {
        if matches!(self.below, Below::Status) { Part::Status } else { Part::Main }
    }
}

/// Answers a request.
pub(crate) async fn answer(cluster: &Cluster, asked: Asked<'_>) -> Result<Response<Body>, Refusal> {
    if asked.target.group == "authorization.k8s.io" {
        write::check_media(&asked)?;
        return review(cluster, &asked);
    }
    let subject = subject(cluster, &asked.target)?;
    if matches!(asked.verb, Verb::Create | Verb::Update | Verb::Delete) {
        write::check_media(&asked)?;
    }
    let view = view(asked.headers)?;
    if subject.name.is_empty() && !matches!(asked.verb, Verb::List | Verb::Watch | Verb::Create) {
        return Err(Refusal::method_not_allowed());
    }
    match asked.verb {
        Verb::List => list(cluster, &asked, (&subject, view)).await,
        Verb::Watch => watch(cluster, &asked, (subject, view)),
        Verb::Get => {
            let found = cluster.store().get(&subject.kind, subject.key())?.clone();
            Ok(shown(StatusCode::OK, &found, &asked, (&subject, view)))
        }
        Verb::Create if subject.name.is_empty() => {
            let made = write::create(cluster, &asked, &subject)?;
            Ok(shown(StatusCode::CREATED, &made, &asked, (&subject, view)))
        }
        Verb::Update | Verb::Patch => {
            let (code, written) = write::change(cluster, &asked, &subject)?;
            Ok(shown(code, &written, &asked, (&subject, view)))
        }
        Verb::Delete => delete(cluster, &asked, (&subject, view)),
        Verb::Create | Verb::DeleteCollection => Err(Refusal::method_not_allowed()),
    }
}

fn subject(cluster: &Cluster, target: &Target) -> Result<Subject, Refusal> {
    let kind = cluster.store().kinds.served(&target.group, &target.version, &target.plural);
    let kind = kind
        .filter(|kind| kind.namespaced() || target.namespace.is_none())
        .ok_or_else(Refusal::no_such_path)?;
    let one_of_all = kind.namespaced() && target.name.is_some() && target.namespace.is_none();
    if one_of_all {
        return Err(Refusal::no_such_path());
    }
    let below = match (target.subresource.as_str(), &kind.scale) {
        ("", _) => Below::Itself,
        ("status", _) if kind.status == Status::Subresource => Below::Status,
        ("scale", Some(paths)) => Below::Scale(paths.clone()),
        _ => return Err(Refusal::no_such_path()),
    };
    let namespace = target.namespace.clone().unwrap_or_default();
    Ok(Subject { kind, namespace, name: target.name.clone().unwrap_or_default(), below })
}

/// What of the accepted media types the server can give. Tables are answered by plain objects, as old servers do.
fn view(headers: &HeaderMap) -> Result<View, Refusal> {
    let accept = text(headers, &header::ACCEPT).unwrap_or("*/*");
    let mut known = false;
    for media in accept.split(',') {
        let mut parts = media.split(';').map(str::trim);
        if !matches!(parts.next(), Some("application/json" | "*/*" | "application/*" | "")) {
            continue;
        }
        known = true;
        for part in parts {
            match part.strip_prefix("as=") {
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Ok(View::Metadata),
                Some(_) => break,
                None => {}
            }
        }
    }
    if known { Ok(View::Full) } else { Err(Refusal::not_acceptable()) }
}

fn filter(asked: &Asked<'_>, subject: &Subject) -> Result<Filter, Refusal> {
    let selectors = (asked.query.text("labelSelector"), asked.query.text("fieldSelector"));
    let mut filter = Filter::new(&subject.kind, asked.target.namespace.clone(), selectors)?;
    if let Some(name) = &asked.target.name {
        let only = format!("metadata.name={name}");
        filter = Filter::new(&subject.kind, asked.target.namespace.clone(), (selectors.0, &only))?;
    }
    Ok(filter)
}

async fn list(
    cluster: &Cluster,
    asked: &Asked<'_>,
    (subject, view): (&Subject, View),
) -> Result<Response<Body>, Refusal> {
    let filter = filter(asked, subject)?;
    await_version(cluster, asked.query.text("resourceVersion")).await?;
    let page = list::page(&mut cluster.store(), &subject.kind, &filter, &asked.query)?;
    Ok(json_bytes(StatusCode::OK, page.write(&subject.kind, &asked.target.version, view)))
}

/// Lists may ask for a version the server has not seen; it waits a little, then gives up.
async fn await_version(cluster: &Cluster, text: &str) -> Result<(), Refusal> {
    let refused =
        |refusal: Refusal| Refusal::bad_request(format!("invalid resource version: {}", refusal.message()));
    let asked = if text.is_empty() { 0 } else { parse_version(text).map_err(refused)? };
    if asked <= cluster.revision() {
        return Ok(());
    }
    sleep(VERSION_WAIT).await;
    let current = cluster.revision();
    if asked <= current { Ok(()) } else { Err(Refusal::too_large_resource_version(asked, current)) }
}

fn watch(
    cluster: &Cluster,
    asked: &Asked<'_>,
    (subject, view): (Subject, View),
) -> Result<Response<Body>, Refusal> {
    let filter = filter(asked, &subject)?;
    let shown = Shown { kind: subject.kind, version: asked.target.version.clone(), view, filter };
    let watch = Watch::open(cluster, shown, &asked.query, asked.call.clone())?;
    let mut response = Response::new(Body::stream(watch.stream()));
    typed(&mut response, "application/json");
    Ok(response)
}

fn delete(
    cluster: &Cluster,
    asked: &Asked<'_>,
    (subject, view): (&Subject, View),
) -> Result<Response<Body>, Refusal> {
    if !matches!(subject.below, Below::Itself) {
        return Err(Refusal::method_not_allowed());
    }
    let options = if asked.call.body.is_empty() { json!({}) } else { parse(&asked.call.body)? };
    let preconditions = &options["preconditions"];
    let part = |member: &str| preconditions[member].as_str().map(str::to_owned);
    let how = Deletion {
        uid: part("uid"),
        resource_version: part("resourceVersion"),
        grace: asked.query.number("gracePeriodSeconds").or_else(|| options["gracePeriodSeconds"].as_u64()),
    };
    let writer = writer(cluster, asked, Operation::Update);
    let deleted = cluster.store().delete(&subject.kind, subject.key(), &how, &writer)?;
    Ok(match deleted {
        Deleted::Terminating(object) => shown(StatusCode::OK, &object, asked, (subject, view)),
        Deleted::Gone(object) if subject.kind.resource() == "pods" => {
            shown(StatusCode::OK, &object, asked, (subject, view))
        }
        Deleted::Gone(object) => json_answer(StatusCode::OK, &deletion_status(&subject.kind, &object)),
    })
}

fn deletion_status(kind: &Kind, object: &Object) -> Value {
    let mut details = json!({ "name": object.name, "kind": kind.plural, "uid": object.uid() });
    if !kind.group.is_empty() {
        details["group"] = kind.group.as_str().into();
    }
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details })
}

fn review(cluster: &Cluster, asked: &Asked<'_>) -> Result<Response<Body>, Refusal> {
    if asked.verb != Verb::Create || asked.target.plural != "selfsubjectaccessreviews" {
        return Err(Refusal::no_such_path());
    }
    let review = cluster.accounts().review(&asked.call.account, &parse(&asked.call.body)?);
    Ok(json_answer(StatusCode::CREATED, &review))
}

/// Who writes: by `fieldManager`, else by the agent.
pub(crate) fn writer(cluster: &Cluster, asked: &Asked<'_>, operation: Operation) -> Writer {
    let named = asked.query.text("fieldManager");
    let manager = if named.is_empty() { product(&asked.call.agent) } else { named };
    let subresource = match asked.target.subresource.as_str() {
        "scale" => "scale",
        "status" => "status",
        _ => "",
    };
    let effect = if asked.query.text("dryRun").is_empty() { Effect::Kept } else { Effect::DryRun };
    Writer { manager: manager.to_owned(), operation, subresource, at: cluster.clock().now(), effect }
}

/// The agent up to its version.
pub(crate) fn product(agent: &str) -> &str {
    let name = agent.split('/').next().unwrap_or_default();
    if name.is_empty() { "unknown" } else { name }
}

pub(crate) fn parse(body: &Bytes) -> Result<Value, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        let message = format!(
            "the object provided is unrecognized: couldn't get version/kind; json parse error: {error}"
        );
        Refusal::bad_request(message)
    })
}

fn shown(
    code: StatusCode,
    object: &Object,
    asked: &Asked<'_>,
    (subject, view): (&Subject, View),
) -> Response<Body> {
    if let Below::Scale(paths) = &subject.below {
        return match scale::view(&subject.kind, paths, object) {
            Ok(scale) => json_answer(code, &scale),
            Err(refusal) => refuse(&refusal),
        };
    }
    let mut out = Vec::new();
    object.write(&mut out, (&subject.kind, &asked.target.version, view));
    json_bytes(code, Bytes::from(out))
}

/// The name in a body must be the one in the path.
pub(crate) fn same_name(subject: &Subject, object: &Value) -> Result<(), Refusal> {
    let (name, namespace) = (meta_text(object, "name"), meta_text(object, "namespace"));
    if !name.is_empty() && !subject.name.is_empty() && name != subject.name {
        let url = &subject.name;
        let message = format!("the name of the object ({name}) does not match the name on the URL ({url})");
        return Err(Refusal::bad_request(message));
    }
    if !namespace.is_empty() && subject.kind.namespaced() && namespace != subject.namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Refusal::bad_request(message));
    }
    Ok(())
}

/// A page that is no resource.
pub(crate) fn page(cluster: &Cluster, segments: &[String]) -> Response<Body> {
    let page = discovery::page(&cluster.store().kinds, segments);
    match page {
        Page::Json(value) => json_answer(StatusCode::OK, &value),
        Page::Text(text) => plain(StatusCode::OK, text),
        Page::Absent => plain(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// An error answer.
pub(crate) fn refuse(refusal: &Refusal) -> Response<Body> {
    let code = StatusCode::from_u16(refusal.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_answer(code, &refusal.status());
    if let Some(after) = refusal.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
    }
    response
}

pub(crate) fn plain(code: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = code;
    typed(&mut response, "text/plain; charset=utf-8");
    response
}

fn json_answer(code: StatusCode, value: &Value) -> Response<Body> {
    json_bytes(code, Bytes::from(to_json(value)))
}

fn json_bytes(code: StatusCode, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = code;
    typed(&mut response, "application/json");
    response
}

fn typed(response: &mut Response<Body>, media: &'static str) {
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
}
