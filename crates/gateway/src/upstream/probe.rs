//! Whether a server is ready to answer for one model, asked the way its protocol has it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, uri::PathAndQuery};
use pipeline::CallError;
use prost::Message as _;
use proto::inference::{ModelReadyRequest, ModelReadyResponse};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use tower::util::BoxCloneSyncService;

use super::{
    Protocol, frame,
    grpc::{self, method},
    http1, http2,
    rest::{self, Dialect, model_path},
};

/// Longest a probe takes.
const PATIENCE: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest answer that is read.
const ANSWER_MAX: usize = 64 << 10;

/// Why a server is not taken for ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    #[error("nothing accepts connections yet")]
    Unreachable,
    #[error("the server runs, its model is not ready")]
    NotReady,
    #[error("the server does not know the model")]
    UnknownModel,
    #[error("the server does not answer whether its model is ready")]
    NoAnswer,
    #[error("the answer is not one of this protocol")]
    BadAnswer,
}

/// A service that asks the server at an address whether `model` is ready there. Each probe has a connection
/// of its own: a server that has run out of those is not ready.
#[must_use]
pub fn probe(protocol: Protocol, model: Arc<str>) -> BoxCloneSyncService<SocketAddr, (), ProbeError> {
    BoxCloneSyncService::new(tower::service_fn(move |address| {
        let model = Arc::clone(&model);
        async move {
            let deadline = Instant::now() + PATIENCE;
            let asked = async {
                match protocol {
                    Protocol::V2Grpc => over_grpc(address, &model, deadline).await,
                    Protocol::V2Http => over_rest(address, Dialect::V2, &model).await,
                    Protocol::V1 => over_rest(address, Dialect::V1, &model).await,
                    Protocol::OpenAi => over_openai(address, &model).await,
                }
            };
            timeout_at(deadline, asked).await.unwrap_or(Err(ProbeError::NoAnswer))
        }
    }))
}

async fn over_rest(address: SocketAddr, dialect: Dialect, model: &str) -> Result<(), ProbeError> {
    let suffix = match dialect {
        Dialect::V2 => "/ready",
        Dialect::V1 | Dialect::OpenAi => "",
    };
    let path = model_path(dialect, model, suffix).ok_or(ProbeError::UnknownModel)?;
    if says_ready(&get(address, path).await?) { Ok(()) } else { Err(ProbeError::NotReady) }
}

/// Engines list what they serve once it is loaded.
async fn over_openai(address: SocketAddr, model: &str) -> Result<(), ProbeError> {
    let list = get(address, PathAndQuery::from_static("/v1/models")).await?;
    let list: Value = serde_json::from_slice(&list).map_err(|_error| ProbeError::BadAnswer)?;
    let models = list.get("data").and_then(Value::as_array).ok_or(ProbeError::BadAnswer)?;
    let is_it = |entry: &Value| entry.get("id").and_then(Value::as_str) == Some(model);
    if models.iter().any(is_it) { Ok(()) } else { Err(ProbeError::UnknownModel) }
}

/// The body of a good answer.
async fn get(address: SocketAddr, path: PathAndQuery) -> Result<Bytes, ProbeError> {
    let request = rest::request(Method::GET, rest::host(address), path, HeaderMap::new(), Bytes::new());
    let link = http1::Link::open(address, CONNECT_TIMEOUT).await.map_err(of_call)?;
    let response = link.send_only(request, ANSWER_MAX).await.map_err(of_call)?;
    match response.status() {
        StatusCode::OK => Ok(response.into_body()),
        StatusCode::NOT_FOUND => Err(ProbeError::UnknownModel),
        status if status.is_client_error() || status.is_server_error() => Err(ProbeError::NotReady),
        _ => Err(ProbeError::BadAnswer),
    }
}

/// Some servers answer 200 and say in the body that the model is not ready, TensorFlow Serving by a state for
/// each version; others say nothing more.
fn says_ready(body: &[u8]) -> bool {
    let Ok(said) = serde_json::from_slice::<Value>(body) else { return true };
    match said.get("ready") {
        Some(Value::Bool(ready)) => return *ready,
        Some(Value::String(ready)) => return ready.eq_ignore_ascii_case("true"),
        _ => {}
    }
    let Some(versions) = said.get("model_version_status").and_then(Value::as_array) else { return true };
    versions.iter().any(|version| version.get("state").and_then(Value::as_str) == Some("AVAILABLE"))
}

async fn over_grpc(address: SocketAddr, model: &str, deadline: Instant) -> Result<(), ProbeError> {
    let question = ModelReadyRequest { name: model.to_owned(), version: String::new() };
    let pieces = frame::message(&question).ok_or(ProbeError::UnknownModel)?;
    let path = PathAndQuery::from_static(method::MODEL_READY);
    let head = grpc::head(grpc::authority(address), path, deadline, HeaderMap::new());
    let link = http2::Link::open(address, CONNECT_TIMEOUT).await.map_err(of_call)?;
    let response = link.send_only(head, pieces).await.map_err(of_call)?;
    let answer = grpc::answer(response, ANSWER_MAX).await.map_err(of_call)?;
    let said = ModelReadyResponse::decode(answer.message).map_err(|_error| ProbeError::BadAnswer)?;
    if said.ready { Ok(()) } else { Err(ProbeError::NotReady) }
}

fn of_call(error: CallError) -> ProbeError {
    match error {
        CallError::NotSent => ProbeError::Unreachable,
        CallError::Reset | CallError::Deadline => ProbeError::NoAnswer,
        CallError::Refused { kind: pipeline::Refusal::NotFound, .. } => ProbeError::UnknownModel,
        CallError::Refused { .. } | CallError::Busy { .. } | CallError::Failed => ProbeError::NotReady,
        CallError::BadResponse | CallError::TooLarge { .. } => ProbeError::BadAnswer,
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;
    use crate::upstream::scripted::{
        closed, frame, grpc_answer, grpc_message, grpc_status, http1, http1_answer, http2, listen, nobody,
        within,
    };

    #[test]
    fn a_body_may_deny_what_its_status_says() {
        for (body, ready) in [
            ("", true),
            ("{}", true),
            (r#"{"name":"m","ready":"True"}"#, true),
            (r#"{"name":"m","ready":true}"#, true),
            (r#"{"name":"m","ready":"False"}"#, false),
            (r#"{"name":"m","ready":false}"#, false),
            (r#"{"model_version_status":[{"state":"AVAILABLE"}]}"#, true),
            (r#"{"model_version_status":[{"state":"LOADING"}]}"#, false),
        ] {
            assert_eq!(says_ready(body.as_bytes()), ready, "{body}");
        }
    }

    async fn probed(address: SocketAddr, protocol: Protocol) -> Result<(), ProbeError> {
        within(probe(protocol, "m".into()).oneshot(address)).await
    }

    #[tokio::test]
    async fn rest_servers_are_asked_by_path_and_answer_by_status() {
        for (protocol, line) in [
            (Protocol::V2Http, "GET /v2/models/m/ready HTTP/1.1"),
            (Protocol::V1, "GET /v1/models/m HTTP/1.1"),
        ] {
            for (status, body, expected) in [
                (200, "", Ok(())),
                (200, r#"{"ready":false}"#, Err(ProbeError::NotReady)),
                (404, "", Err(ProbeError::UnknownModel)),
                (400, "", Err(ProbeError::NotReady)),
                (503, "", Err(ProbeError::NotReady)),
                (302, "", Err(ProbeError::BadAnswer)),
            ] {
                let scripted = http1(move |received| {
                    assert_eq!(received.line, line);
                    http1_answer(status, "", body)
                })
                .await;
                assert_eq!(probed(scripted.address, protocol).await, expected, "{line} {status} {body}");
            }
        }
    }

    #[tokio::test]
    async fn engines_are_ready_once_they_list_the_model() {
        for (status, body, expected) in [
            (200, r#"{"data":[{"id":"x"},{"id":"m"}]}"#, Ok(())),
            (200, r#"{"data":[{"id":"x"}]}"#, Err(ProbeError::UnknownModel)),
            (200, r#"{"models":["m"]}"#, Err(ProbeError::BadAnswer)),
            (200, "ok", Err(ProbeError::BadAnswer)),
            (503, r#"{"error":{"message":"Loading model"}}"#, Err(ProbeError::NotReady)),
        ] {
            let scripted = http1(move |received| {
                assert_eq!(received.line, "GET /v1/models HTTP/1.1");
                http1_answer(status, "", body)
            })
            .await;
            assert_eq!(probed(scripted.address, Protocol::OpenAi).await, expected, "{status} {body}");
        }
    }

    #[tokio::test]
    async fn grpc_servers_answer_by_message() {
        for (code, ready, expected) in [
            ("0", true, Ok(())),
            ("0", false, Err(ProbeError::NotReady)),
            ("5", false, Err(ProbeError::UnknownModel)),
            ("14", false, Err(ProbeError::NotReady)),
            ("12", false, Err(ProbeError::NotReady)),
        ] {
            let scripted = http2(move |request, respond| async move {
                let question = ModelReadyRequest::decode(grpc_message(request).await).unwrap();
                assert_eq!(question.name, "m");
                grpc_answer(respond, frame(&ModelReadyResponse { ready }), grpc_status(code, ""));
            })
            .await;
            assert_eq!(probed(scripted.address, Protocol::V2Grpc).await, expected, "{code} {ready}");
        }
    }

    #[tokio::test]
    async fn a_server_that_does_not_listen_answer_or_speak_the_protocol_is_not_ready() {
        let protocols = [Protocol::V2Grpc, Protocol::V2Http, Protocol::V1].map(|protocol| async move {
            assert_eq!(probed(nobody().await, protocol).await, Err(ProbeError::Unreachable));
            let silent = listen(|mut stream, _| async move { closed(&mut stream).await }).await;
            assert_eq!(probed(silent.address, protocol).await, Err(ProbeError::NoAnswer));
            let closing = listen(|stream, _| async move { drop(stream) }).await;
            let error = probed(closing.address, protocol).await.unwrap_err();
            // A close may be seen before or after the question is sent.
            assert!(matches!(error, ProbeError::NoAnswer | ProbeError::Unreachable), "{error}");
        });
        futures_util::future::join_all(protocols).await;
    }
}
