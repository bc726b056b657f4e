//! What is served and in which state: every REST endpoint that computes nothing.

use http::{HeaderName, HeaderValue, Response, StatusCode, request::Parts};
use serde_json::{Value, json};

use super::json as respond;
use crate::{
    frontend::{
        about,
        body::Body,
        call::Call,
        deadline::Patience,
        route::{Action, Target},
    },
    models::{Model, Readiness},
    status::{Failure, REASON, Situation},
};

const STATE: HeaderName = HeaderName::from_static("x-tidegate-state");

pub(super) fn server() -> Response<Body> {
    let body = json!({
        "name": about::SERVER,
        "version": about::VERSION,
        "extensions": about::EXTENSIONS,
    });
    ok(&body)
}

pub(super) fn live() -> Response<Body> {
    ok(&json!({ "live": true }))
}

pub(super) fn ready(call: &Call) -> Response<Body> {
    let ready = call.gateway().is_ready();
    readiness(&json!({ "ready": ready }), (!ready).then_some(Situation::ShuttingDown))
}

/// Everything under `/v2/models/{m}` but inference.
pub(super) async fn model(
    call: &mut Call,
    head: &Parts,
    target: &Target<'_>,
    action: Action,
) -> Result<Response<Body>, Failure> {
    let model = call.find_model(&target.name)?;
    match action {
        Action::Ready => Ok(model_ready(&model, head.uri.query())),
        Action::Stats => {
            let version = target.version.as_deref().unwrap_or_default();
            Ok(ok(&json!({ "model_stats": [stats(&model, version)] })))
        }
        Action::Metadata => {
            let metadata = described(call, head, &model).await?;
            let body = convert::metadata::to_json(&about::under_own_name(&metadata, &model));
            Ok(respond(StatusCode::OK, body))
        }
        Action::Config => {
            let metadata = described(call, head, &model).await?;
            let rows = model.dispatch().stats().max_batch_rows;
            let body = convert::metadata::config_json(&about::under_own_name(&metadata, &model), rows);
            Ok(respond(StatusCode::OK, body))
        }
        Action::Infer | Action::Generate => {
            Err(Failure::new(Situation::Unsupported, "generate is not served; use infer"))
        }
    }
}

async fn described(
    call: &Call,
    head: &Parts,
    model: &Model,
) -> Result<std::sync::Arc<pipeline::tensor::Metadata>, Failure> {
    let deadline = Patience::of(&head.headers, call.started())?.deadline(model.deadlines())?;
    model.metadata(deadline).await
}

/// A model at zero is ready if a call would start it; `?strict=1` asks for replicas that run now.
fn model_ready(model: &Model, query: Option<&str>) -> Response<Body> {
    let state = model.readiness();
    let strict = query.is_some_and(|query| query.split('&').any(|pair| pair == "strict=1"));
    let ready = if strict { state.has_replicas() } else { state.accepts() };
    let body = json!({ "name": &**model.name(), "ready": ready });
    let mut response = readiness(&body, (!ready).then_some(Situation::NoReplicas));
    response.headers_mut().insert(STATE, HeaderValue::from_static(word(state)));
    response
}

/// An answer to a probe: the status tells, and the reason if it is no.
fn readiness(body: &Value, unready: Option<Situation>) -> Response<Body> {
    let status = unready.map_or(StatusCode::OK, Situation::http_status);
    let mut response = respond(status, body.to_string().into());
    if let Some(situation) = unready {
        response.headers_mut().insert(REASON, HeaderValue::from_static(situation.row().reason));
    }
    response
}

fn word(state: Readiness) -> &'static str {
    match state {
        Readiness::Zero => "zero",
        Readiness::Starting => "starting",
        Readiness::Ready { .. } => "ready",
        Readiness::Off => "off",
    }
}

pub(super) fn all_stats(call: &Call) -> Response<Body> {
    let models = call.gateway().shared_models().all();
    let stats: Vec<Value> = models.iter().map(|model| stats(model, "")).collect();
    ok(&json!({ "model_stats": stats }))
}

fn stats(model: &Model, version: &str) -> Value {
    let stats = model.dispatch().stats();
    json!({
        "name": &**model.name(),
        "version": version,
        "inference_count": stats.batch_rows,
        "execution_count": stats.batches,
        "inference_stats": {
            "success": { "count": stats.completions },
            "fail": { "count": stats.failures },
        },
        "batch_stats": [],
    })
}

pub(super) fn index(call: &Call) -> Response<Body> {
    let models = call.gateway().shared_models().all();
    let entry = |model: &std::sync::Arc<Model>| {
        let (state, reason) = about::repository_state(model.readiness());
        json!({ "name": &**model.name(), "version": "", "state": state, "reason": reason })
    };
    ok(&models.iter().map(entry).collect::<Value>())
}

pub(super) fn load(call: &mut Call, name: &str) -> Result<Response<Body>, Failure> {
    call.find_model(name)?.wake();
    Ok(ok(&json!({})))
}

pub(super) fn unload(call: &mut Call, name: &str) -> Result<Response<Body>, Failure> {
    call.find_model(name)?;
    Err(about::unload_unsupported())
}

/// Read by OpenAI's clients (`data`) and KServe's (`models`) alike.
pub(super) fn v1_list(call: &Call) -> Response<Body> {
    let models = call.gateway().shared_models().all();
    let entry = |model: &std::sync::Arc<Model>| json!({ "id": &**model.name(), "object": "model", "created": 0, "owned_by": about::SERVER });
    let names: Vec<&str> = models.iter().map(|model| &**model.name()).collect();
    let data: Vec<Value> = models.iter().map(entry).collect();
    ok(&json!({ "object": "list", "data": data, "models": names }))
}

/// Read by KServe's clients (`ready`), TensorFlow Serving's (`model_version_status`) and OpenAI's (`id`) alike.
pub(super) fn v1_status(call: &mut Call, target: &Target<'_>) -> Result<Response<Body>, Failure> {
    let model = call.find_model(&target.name)?;
    let ready = model.readiness().accepts();
    let state = if ready { "AVAILABLE" } else { "UNLOADING" };
    let body = json!({
        "name": &**model.name(),
        "ready": ready,
        "id": &**model.name(),
        "object": "model",
        "created": 0,
        "owned_by": about::SERVER,
        "model_version_status": [{
            "version": target.version.as_deref().unwrap_or("1"),
            "state": state,
            "status": { "error_code": "OK", "error_message": "" },
        }],
    });
    Ok(readiness(&body, (!ready).then_some(Situation::NoReplicas)))
}

fn ok(body: &Value) -> Response<Body> {
    respond(StatusCode::OK, body.to_string().into())
}
