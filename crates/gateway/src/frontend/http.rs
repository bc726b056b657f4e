//! The REST surfaces: Open Inference Protocol, V1 predict, and OpenAI.

mod about;
mod media;
mod openai;
mod v1;
mod v2;

use bytes::Bytes;
use convert::Encoded;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header, request::Parts,
    uri::PathAndQuery,
};
use http_body::Body as _;
use hyper::body::Incoming;
use pipeline::request::{Opaque, OpaqueReply, Wire};
use tokio::time::Instant;

use super::{
    body::Body,
    call::Call,
    compression::Compression,
    intake::{self, Received},
    route::{Action, Route},
};
use crate::status::{Failure, Situation};

const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
/// Headers that describe a body, and so travel with it.
const DESCRIPTIVE: [HeaderName; 2] = [header::CONTENT_TYPE, HEADER_LENGTH];

/// Answers one REST call.
pub(super) async fn answer(
    call: &mut Call,
    head: &Parts,
    mut body: Incoming,
) -> Result<Response<Body>, Failure> {
    let result = route(call, head, &mut body).await;
    // Otherwise hyper closes the connection under a client that was never told so.
    let is_on_its_way = head.version < Version::HTTP_2 && !head.headers.contains_key(header::EXPECT);
    if is_on_its_way && !body.is_end_stream() {
        intake::discard(&mut body).await;
    }
    result
}

async fn route(call: &mut Call, head: &Parts, body: &mut Incoming) -> Result<Response<Body>, Failure> {
    let path = head.uri.path();
    if path.starts_with("/inference.GRPCInferenceService/") || path.starts_with("/grpc.") {
        let sentence = "gRPC methods need HTTP/2 and content-type application/grpc";
        return Err(Failure::new(Situation::UnsupportedMediaType, sentence));
    }
    let route = Route::of(path)?;
    match route.purpose() {
        Some(purpose) => call.is_for(purpose),
        None => call.is_about(),
    }
    route.check(&head.method)?;
    match route {
        Route::Model(target, Action::Infer) => v2::infer(call, head, &target, body).await,
        Route::V1Predict(target) => v1::predict(call, head, &target, body).await,
        Route::Model(target, action) => about::model(call, head, &target, action).await,
        Route::ServerMetadata => Ok(about::server()),
        Route::Live => Ok(about::live()),
        Route::Ready => Ok(about::ready(call)),
        Route::AllStats => Ok(about::all_stats(call)),
        Route::RepositoryIndex => Ok(about::index(call)),
        Route::Load(name) => about::load(call, &name),
        Route::Unload(name) => about::unload(call, &name),
        Route::V1List => Ok(about::v1_list(call)),
        Route::V1Status(target) => about::v1_status(call, &target),
        Route::OpenAi(endpoint) => openai::answer(call, head, endpoint, body).await,
    }
}

/// Reads the body of a call and decompresses it.
async fn receive(
    call: &Call,
    head: &Parts,
    body: &mut Incoming,
    deadline: Instant,
) -> Result<Received, Failure> {
    let compression = Compression::of(&head.headers)?;
    let terms = call.terms(deadline);
    let received = intake::read(body, &terms).await?;
    match compression {
        None => Ok(received),
        Some(compression) => compression.undo(received, terms.body_max).await,
    }
}

/// A call as it came, for a server that speaks the same protocol. The path carries no query: none has a meaning.
fn forwarded(head: &Parts, body: Bytes) -> Opaque {
    let path = match head.uri.path_and_query() {
        Some(path) if path.query().is_none() => path.clone(),
        _ => PathAndQuery::try_from(head.uri.path()).expect("the path of a valid URI is valid"),
    };
    Opaque { wire: Wire::Http, path, headers: descriptive(&head.headers), body, streamed: false }
}

/// A model server's answer as it came.
fn returned(reply: OpaqueReply) -> Response<Body> {
    let mut response = Response::new(Body::full(reply.body));
    *response.status_mut() = reply.status;
    *response.headers_mut() = descriptive(&reply.headers);
    response
}

fn descriptive(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(6);
    for name in DESCRIPTIVE {
        if let Some(value) = headers.get(&name) {
            kept.insert(name, value.clone());
        }
    }
    kept
}

fn encoded(encoded: Encoded) -> Response<Body> {
    let content_type = HeaderValue::from_static(encoded.content_type());
    let mut response = Response::new(Body::full(encoded.body));
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    if let Some(length) = encoded.header_length {
        response.headers_mut().insert(HEADER_LENGTH, length.into());
    }
    response
}

fn json(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
