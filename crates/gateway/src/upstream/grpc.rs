//! Calls to a server of the Open Inference Protocol over gRPC: a thin layer of frames and statuses on HTTP/2.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use pipeline::{
    CallError,
    replica::Call,
    request::{Inference, Opaque, OpaqueReply, Payload, Reply, Wire},
};
use prost::Message;
use proto::inference::ModelInferResponse;
use tokio::time::Instant;

use super::{
    Config,
    failure::{self, code},
    frame::{self, Pieces, Reader},
    headers, http2,
};
use crate::trace::Target;

static CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
static TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Headers of a client's call that are about its connection to us.
static OF_THE_HOP: [HeaderName; 3] = [
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("grpc-timeout"),
];

/// The methods called here.
pub(super) mod method {
    pub(in super::super) const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
    pub(in super::super) const MODEL_METADATA: &str = "/inference.GRPCInferenceService/ModelMetadata";
    pub(in super::super) const MODEL_READY: &str = "/inference.GRPCInferenceService/ModelReady";
    pub(in super::super) const SERVER_METADATA: &str = "/inference.GRPCInferenceService/ServerMetadata";
}

/// A server and the connections to it.
#[derive(Debug)]
pub(super) struct Grpc {
    pool: http2::Pool,
    authority: Authority,
    model_infer: PathAndQuery,
    pub(super) model: Arc<str>,
    response_bytes_max: usize,
}

/// A call that went well.
#[derive(Debug)]
pub(super) struct Answer {
    headers: HeaderMap,
    pub(super) message: Bytes,
}

impl Grpc {
    pub(super) fn new(address: SocketAddr, config: &Config) -> Self {
        Self {
            pool: http2::Pool::new(address, config.connect_timeout, config.http2_connections),
            authority: authority(address),
            model_infer: PathAndQuery::from_static(method::MODEL_INFER),
            model: Arc::clone(&config.model),
            response_bytes_max: config.response_bytes_max,
        }
    }

    pub(super) async fn call(&self, call: Call) -> Result<Reply, CallError> {
        let Call { payload, ends: deadline, trace, .. } = call;
        match payload {
            Payload::Tensors(inference) => self.infer(inference, deadline, trace).await,
            Payload::Opaque(opaque) if opaque.wire == Wire::Grpc => {
                self.hand_on(opaque, deadline, trace).await
            }
            Payload::Opaque(_) => Err(failure::unsupported("the model's servers speak gRPC only")),
        }
    }

    /// What a call with this payload calls.
    pub(super) fn target(&self, payload: &Payload) -> Target {
        let path = match payload {
            Payload::Opaque(opaque) => opaque.path.path(),
            Payload::Tensors(_) => self.model_infer.path(),
        };
        Target::Grpc { method: path.trim_start_matches('/').to_owned() }
    }

    async fn infer(
        &self,
        inference: Inference,
        deadline: Instant,
        trace: HeaderMap,
    ) -> Result<Reply, CallError> {
        let request = convert::grpc::encode_request(&self.model, &inference);
        // The tensors live on in the request; the rest need not until the answer comes.
        drop(inference);
        let pieces = frame::infer(request).ok_or_else(too_long)?;
        let head = self.head(self.model_infer.clone(), deadline, trace);
        let answer = self.unary(head, pieces).await?;
        let response = ModelInferResponse::decode(answer.message).map_err(|_error| CallError::BadResponse)?;
        let outcome = convert::grpc::decode_response(response).map_err(|_error| CallError::BadResponse)?;
        Ok(Reply::Tensors(outcome))
    }

    async fn hand_on(&self, opaque: Opaque, deadline: Instant, trace: HeaderMap) -> Result<Reply, CallError> {
        let mut carried = opaque.headers;
        headers::strip(&mut carried);
        for name in &OF_THE_HOP {
            carried.remove(name);
        }
        headers::carry(&mut carried, trace);
        let pieces = frame::encoded(opaque.body).ok_or_else(too_long)?;
        let mut answer = self.unary(self.head(opaque.path, deadline, carried), pieces).await?;
        headers::strip(&mut answer.headers);
        for name in &OF_THE_HOP {
            answer.headers.remove(name);
        }
        answer.headers.remove(&GRPC_STATUS);
        Ok(Reply::Opaque(OpaqueReply {
            status: StatusCode::OK,
            headers: answer.headers,
            body: answer.message,
        }))
    }

    /// Calls a method that is about the server rather than for a client.
    pub(super) async fn ask<Q: Message, A: Message + Default>(
        &self,
        method: &'static str,
        question: &Q,
        deadline: Instant,
    ) -> Result<A, CallError> {
        let pieces = frame::message(question).ok_or_else(too_long)?;
        let head = self.head(PathAndQuery::from_static(method), deadline, HeaderMap::new());
        let answer = self.unary(head, pieces).await?;
        A::decode(answer.message).map_err(|_error| CallError::BadResponse)
    }

    fn head(&self, path: PathAndQuery, deadline: Instant, carried: HeaderMap) -> Request<()> {
        head(self.authority.clone(), path, deadline, carried)
    }

    async fn unary(&self, head: Request<()>, pieces: Pieces) -> Result<Answer, CallError> {
        let response = self.pool.send(head, pieces).await?;
        answer(response, self.response_bytes_max).await
    }
}

/// The authority that stands for an address.
pub(super) fn authority(address: SocketAddr) -> Authority {
    Authority::try_from(address.to_string()).expect("a socket address is an authority")
}

/// The head of a call.
pub(super) fn head(
    authority: Authority,
    path: PathAndQuery,
    deadline: Instant,
    carried: HeaderMap,
) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query = Some(path);
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path make a URI");
    *request.headers_mut() = carried;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE.clone());
    headers.insert(header::TE, TRAILERS.clone());
    headers.insert(GRPC_TIMEOUT.clone(), headers::grpc_timeout(deadline));
    request
}

/// Reads the one message of an answer and its status.
pub(super) async fn answer(response: Response<http2::Body>, limit: usize) -> Result<Answer, CallError> {
    let (head, mut body) = response.into_parts();
    if head.status != StatusCode::OK {
        let code = status(&head.headers)?.unwrap_or_else(|| failure::grpc_code_of_http(head.status));
        return Err(failure::of_grpc(code, &head.headers));
    }
    // An answer of a status alone has it in its head.
    if let Some(code) = status(&head.headers)?
        && code != code::OK
    {
        return Err(failure::of_grpc(code, &head.headers));
    }
    if !is_grpc(&head.headers) {
        return Err(CallError::BadResponse);
    }
    let mut reader = Reader::new(limit);
    while let Some(chunk) = body.data().await? {
        reader.push(chunk)?;
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    match status(&trailers)? {
        Some(code::OK) => {}
        Some(code) => return Err(failure::of_grpc(code, &trailers)),
        None => return Err(CallError::BadResponse),
    }
    let message = reader.finish()?.ok_or(CallError::BadResponse)?;
    Ok(Answer { headers: head.headers, message })
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let media = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    media.starts_with(CONTENT_TYPE.as_bytes())
}

fn status(headers: &HeaderMap) -> Result<Option<u32>, CallError> {
    let Some(value) = headers.get(&GRPC_STATUS) else { return Ok(None) };
    let code = value.to_str().ok().and_then(|code| code.parse().ok());
    code.map(Some).ok_or(CallError::BadResponse)
}

fn too_long() -> CallError {
    CallError::Refused {
        kind: pipeline::Refusal::TooLarge,
        message: "the request is longer than 4 GiB, the most that gRPC can carry".to_owned(),
        words: None,
    }
}

#[cfg(test)]
mod tests;
