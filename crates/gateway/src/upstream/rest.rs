//! Calls to a server over HTTP/1.1: the Open Inference Protocol (JSON, or binary where the server has it),
//! the V1 predict protocol, and bodies handed on as they came.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use convert::{
    Encoded,
    openai::{
        self,
        embeddings::{self, EmbeddingsRequest},
    },
    v1, v2,
};
use futures_util::StreamExt as _;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header, response, uri::PathAndQuery,
};
use http_body_util::Full;
use pipeline::{
    CallError, Refusal,
    replica::Call,
    request::{Inference, Opaque, OpaqueReply, Outcome, Payload, Reply, StreamReply, Wire},
};
use tokio::time::Instant;

use super::{
    Config, failure, headers,
    http1::{IdleLimits, Pool},
};
use crate::trace::Target;

static HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Which of the protocols over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V1,
    OpenAi,
}

/// A server and the connections to it.
#[derive(Debug)]
pub(super) struct Rest {
    pool: Pool,
    host: HeaderValue,
    pub(super) dialect: Dialect,
    pub(super) model: Arc<str>,
    /// The path of calls to the default version.
    infer: PathAndQuery,
    /// Whether the server said that it takes tensors in binary.
    binary_tensors: AtomicBool,
    response_bytes_max: usize,
}

impl Rest {
    pub(super) fn new(address: SocketAddr, config: &Config, dialect: Dialect) -> Self {
        let idle = IdleLimits { connections: config.idle_connections_max, timeout: config.idle_timeout };
        Self {
            pool: Pool::new(address, config.connect_timeout, idle),
            host: host(address),
            dialect,
            model: Arc::clone(&config.model),
            infer: infer_path(dialect, &config.model, "").expect("configured model names fit a path"),
            binary_tensors: AtomicBool::new(false),
            response_bytes_max: config.response_bytes_max,
        }
    }

    pub(super) fn use_binary_tensors(&self) {
        self.binary_tensors.store(true, Relaxed);
    }

    pub(super) async fn call(&self, call: Call) -> Result<Reply, CallError> {
        let Call { payload, ends: deadline, trace, .. } = call;
        match payload {
            Payload::Tensors(mut inference) => {
                identify(&mut inference, &trace);
                self.infer(&inference, deadline, trace).await.map(Reply::Tensors)
            }
            Payload::Opaque(opaque) if opaque.wire == Wire::Http && opaque.streamed => {
                self.open(opaque, deadline, trace).await
            }
            Payload::Opaque(opaque) if opaque.wire == Wire::Http => {
                self.hand_on(opaque, deadline, trace).await
            }
            Payload::Opaque(_) => Err(failure::unsupported("the model's servers speak HTTP only")),
        }
    }

    /// What a call with this payload calls.
    pub(super) fn target(&self, payload: &Payload) -> Target {
        let path = match payload {
            Payload::Opaque(opaque) => Some(opaque.path.clone()),
            Payload::Tensors(inference) => self.path(&inference.version),
        };
        let path = path.map_or_else(String::new, |path| path.path().to_owned());
        let is_versioned = path.contains("/versions/");
        let template = match self.dialect {
            Dialect::V2 if is_versioned => "/v2/models/{model}/versions/{version}/infer".into(),
            Dialect::V2 => "/v2/models/{model}/infer".into(),
            Dialect::V1 if is_versioned => "/v1/models/{model}/versions/{version}:predict".into(),
            Dialect::V1 => "/v1/models/{model}:predict".into(),
            Dialect::OpenAi => path.clone().into(),
        };
        Target::Http { path, template }
    }

    /// The path of calls to a version; the default one has no name. `None`: it cannot be one.
    fn path(&self, version: &str) -> Option<PathAndQuery> {
        if version.is_empty() {
            return Some(self.infer.clone());
        }
        infer_path(self.dialect, &self.model, version)
    }

    async fn infer(
        &self,
        inference: &Inference,
        deadline: Instant,
        trace: HeaderMap,
    ) -> Result<Outcome, CallError> {
        let encoded = self.encode(inference).map_err(|error| failure::inexpressible(&error))?;
        let path = self.path(&inference.version).ok_or_else(unknown_version)?;
        let mut carried = trace;
        carried.insert(header::CONTENT_TYPE, HeaderValue::from_static(encoded.content_type()));
        if let Some(length) = encoded.header_length {
            carried.insert(HEADER_LENGTH.clone(), HeaderValue::from(length));
        }
        if let Some(credential) = embeddings::credential(inference) {
            let credential = HeaderValue::try_from(credential).map_err(|_| CallError::BadResponse)?;
            carried.insert(header::AUTHORIZATION, credential);
        }
        headers::tell_deadline(&mut carried, deadline);
        let response = self.post(path, carried, encoded.body).await?;
        if !response.status().is_success() {
            return Err(failure::of_http(response.status(), response.headers(), response.body()));
        }
        self.decode(&response, inference)
    }

    fn encode(&self, inference: &Inference) -> Result<Encoded, convert::Error> {
        match self.dialect {
            Dialect::V2 if self.binary_tensors.load(Relaxed) => {
                v2::encode_request(inference, v2::Style::Binary)
            }
            Dialect::V2 => v2::encode_request(inference, v2::Style::Json),
            Dialect::V1 => v1::encode_request(inference),
            Dialect::OpenAi => {
                let request = EmbeddingsRequest::of_inference(inference);
                let request = request.ok_or(convert::Error::OpenAiOnly)?;
                Ok(Encoded { body: embeddings::merge(&[&request]), header_length: None })
            }
        }
    }

    fn decode(&self, response: &Response<Bytes>, inference: &Inference) -> Result<Outcome, CallError> {
        let outcome = match self.dialect {
            Dialect::V2 => v2::decode_response(response.body(), header_length(response.headers())?),
            Dialect::V1 => v1::decode_response(response.body()),
            Dialect::OpenAi => {
                let request = EmbeddingsRequest::of_inference(inference).ok_or(CallError::BadResponse)?;
                embeddings::decode_response(response.body(), &request)
            }
        };
        outcome.map_err(|_error| CallError::BadResponse)
    }

    async fn hand_on(&self, opaque: Opaque, deadline: Instant, trace: HeaderMap) -> Result<Reply, CallError> {
        let request = self.forwarded(opaque, deadline, trace);
        let (head, body) = self.pool.send(request, self.response_bytes_max).await?.into_parts();
        self.whole(head, body)
    }

    /// Hands a call on and waits for the first piece of its answer: until then it may be repeated elsewhere. A server
    /// that answers in one piece although it was asked for several is let.
    async fn open(&self, opaque: Opaque, deadline: Instant, trace: HeaderMap) -> Result<Reply, CallError> {
        let request = self.forwarded(opaque, deadline, trace);
        let (mut head, body) = self.pool.open(request).await?.into_parts();
        if !head.status.is_success() || !is_event_stream(&head.headers) {
            return self.whole(head, body.collect(self.response_bytes_max).await?);
        }
        let mut pieces = Box::pin(body.pieces());
        let first = pieces.next().await.unwrap_or(Err(CallError::Reset))?;
        headers::strip(&mut head.headers);
        Ok(Reply::Stream(StreamReply { headers: head.headers, first, rest: pieces }))
    }

    /// An answer that came in one piece.
    fn whole(&self, mut head: response::Parts, body: Bytes) -> Result<Reply, CallError> {
        if !head.status.is_success() {
            return Err(failure::of_http(head.status, &head.headers, &body));
        }
        if self.dialect == Dialect::OpenAi && !openai::is_answer(&body) {
            return Err(CallError::BadResponse);
        }
        headers::strip(&mut head.headers);
        Ok(Reply::Opaque(OpaqueReply { status: head.status, headers: head.headers, body }))
    }

    fn forwarded(&self, opaque: Opaque, deadline: Instant, trace: HeaderMap) -> Request<Full<Bytes>> {
        let mut carried = opaque.headers;
        headers::strip(&mut carried);
        headers::carry(&mut carried, trace);
        headers::tell_deadline(&mut carried, deadline);
        request(Method::POST, self.host.clone(), opaque.path, carried, opaque.body)
    }

    async fn post(
        &self,
        path: PathAndQuery,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, CallError> {
        let request = request(Method::POST, self.host.clone(), path, headers, body);
        self.pool.send(request, self.response_bytes_max).await
    }

    /// Asks something about the server rather than for a client.
    pub(super) async fn get(&self, path: PathAndQuery) -> Result<Response<Bytes>, CallError> {
        let request = request(Method::GET, self.host.clone(), path, HeaderMap::new(), Bytes::new());
        let response = self.pool.send(request, self.response_bytes_max).await?;
        if !response.status().is_success() {
            return Err(failure::of_http(response.status(), response.headers(), response.body()));
        }
        Ok(response)
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let media = headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
    media.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// Some servers fail calls without an id. One that has none, as every merged call, goes by that of the request.
fn identify(inference: &mut Inference, trace: &HeaderMap) {
    if inference.id.is_empty()
        && let Some(id) = trace.get(&REQUEST_ID).and_then(|id| id.to_str().ok())
    {
        id.clone_into(&mut inference.id);
    }
}

/// The value of `host` that stands for an address.
pub(super) fn host(address: SocketAddr) -> HeaderValue {
    HeaderValue::try_from(address.to_string()).expect("a socket address is a header value")
}

/// A request with these headers and `host`.
pub(super) fn request(
    method: Method,
    host: HeaderValue,
    path: PathAndQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from(path);
    *request.headers_mut() = headers;
    request.headers_mut().insert(header::HOST, host);
    request
}

/// The path of the model itself; both protocols ask it there what it is.
pub(super) fn model_path(dialect: Dialect, model: &str, suffix: &str) -> Option<PathAndQuery> {
    let mut path = String::from(match dialect {
        Dialect::V2 => "/v2/models/",
        Dialect::V1 | Dialect::OpenAi => "/v1/models/",
    });
    push_segment(&mut path, model);
    path.push_str(suffix);
    PathAndQuery::try_from(path).ok()
}

fn infer_path(dialect: Dialect, model: &str, version: &str) -> Option<PathAndQuery> {
    let verb = match dialect {
        Dialect::V2 => "/infer",
        Dialect::V1 => ":predict",
        Dialect::OpenAi => return Some(PathAndQuery::from_static("/v1/embeddings")),
    };
    let mut suffix = String::new();
    if !version.is_empty() {
        suffix.push_str("/versions/");
        push_segment(&mut suffix, version);
    }
    suffix.push_str(verb);
    model_path(dialect, model, &suffix)
}

/// Appends one segment of a path; percent-encoded, so that no name can leave its place. A segment of dots is
/// encoded as well, lest somebody on the way walks up.
fn push_segment(path: &mut String, segment: &str) {
    let only_dots = segment.bytes().all(|byte| byte == b'.');
    for byte in segment.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || (byte == b'.' && !only_dots);
        if plain {
            path.push(char::from(byte));
        } else {
            write!(path, "%{byte:02X}").expect("a string takes all writes");
        }
    }
}

fn header_length(headers: &HeaderMap) -> Result<Option<usize>, CallError> {
    let Some(value) = headers.get(&HEADER_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|length| length.parse().ok());
    length.map(Some).ok_or(CallError::BadResponse)
}

fn unknown_version() -> CallError {
    CallError::Refused {
        kind: Refusal::NotFound,
        message: "there is no such version of the model".to_owned(),
        words: None,
    }
}

#[cfg(test)]
mod tests;
