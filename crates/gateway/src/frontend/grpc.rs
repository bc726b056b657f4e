//! The gRPC surface: a thin layer of our own on HTTP/2, because the one that is generated answers with other codes
//! than were promised (ignored bad time-outs, CANCELLED for late, OUT_OF_RANGE for large).

mod about;
pub(super) mod conventions;
mod expansion;
mod frame;
mod infer;
mod stream;

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use http::{HeaderMap, HeaderValue, Method, Response, header, request::Parts};
use http_body::Frame;
use hyper::body::Incoming;
use prost::Message;

use self::frame::Reader;
use super::{body::Body, call::Call, deadline::Patience, intake::Received};
use crate::{
    models::Deadlines,
    status::{Failure, Situation, quote},
    trace::Purpose,
};

const SERVICE: &str = "/inference.GRPCInferenceService/";
/// Time for calls that are about no model, and for reading a message before its model is known.
const UNROUTED: Deadlines = Deadlines {
    default: Duration::from_secs(300),
    max: Duration::from_secs(300),
    cold_start: Duration::from_secs(300),
};

/// Answers one gRPC call.
pub(super) async fn answer(call: &mut Call, head: Parts, body: Incoming) -> Result<Response<Body>, Failure> {
    if head.method != Method::POST {
        return Err(Failure::method_not_allowed("POST"));
    }
    let method = head.uri.path().strip_prefix(SERVICE);
    match method {
        Some("ModelInfer") => call.is_for(Purpose::Method("inference.GRPCInferenceService/ModelInfer")),
        Some("ModelStreamInfer") => {
            call.is_for(Purpose::Method("inference.GRPCInferenceService/ModelStreamInfer"));
        }
        _ => call.is_about(),
    }
    let Some(method) = method else {
        return conventions::answer(call, head, body).await;
    };
    let patience = Patience::of(&head.headers, call.started())?;
    let reader = Reader::new(&head.headers, body)?;
    match method {
        "ModelInfer" => infer::unary(call, &head.headers, reader, patience).await,
        "ModelStreamInfer" => Ok(stream::answer(call, head.headers, reader, patience)),
        _ => about::answer(call, method, reader, patience).await,
    }
}

/// The only message of a unary call.
async fn only(call: &Call, mut reader: Reader, patience: Patience) -> Result<Received, Failure> {
    let terms = call.terms(patience.deadline(UNROUTED)?);
    let message = reader.next(&terms, terms.idle).await?;
    let message = message.ok_or_else(|| invalid("the call has no message"))?;
    match reader.next(&terms, terms.idle).await? {
        None => Ok(message),
        Some(_) => Err(invalid("the call has more than one message")),
    }
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M, Failure> {
    M::decode(message).map_err(|_| invalid("the message is not valid protobuf for this method"))
}

fn invalid(sentence: &'static str) -> Failure {
    Failure::new(Situation::BadRequest, sentence)
}

fn no_such_method(path: &str) -> Failure {
    Failure::new(Situation::RouteNotFound, format!("there is no gRPC method {}", quote(path)))
}

/// A unary answer.
fn reply(message: &impl Message) -> Response<Body> {
    let Some(framed) = frame::encode(message) else { return Failure::internal().to_grpc() };
    respond(Body::with_trailers(framed, good_end()))
}

fn respond(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Where the messages of a response come from.
trait Source: Send + Sized + 'static {
    /// The next message, framed, or `None` after the last. A failure ends the response.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, Failure>> + Send;

    /// Is told of that failure.
    fn failed(&mut self, _situation: Situation) {}
}

/// An answer of as many messages as `source` has. No task of its own: dropping its body cancels what is under
/// way.
fn streamed(source: impl Source) -> Response<Body> {
    let frames = unfold(Some(source), |source| async move {
        let mut source = source?;
        Some(match source.next().await {
            Ok(Some(message)) => (Frame::data(message), Some(source)),
            Ok(None) => (Frame::trailers(good_end()), None),
            Err(failure) => {
                source.failed(failure.situation);
                (Frame::trailers(failure.trailers()), None)
            }
        })
    });
    respond(Body::stream(frames))
}

/// The trailers of a good call.
fn good_end() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(tonic::Status::GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}
