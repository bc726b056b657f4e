//! `ModelInfer`, and each message of `ModelStreamInfer`.

use bytes::{BufMut, Bytes};
use convert::grpc;
use http::{HeaderMap, Response, uri::PathAndQuery};
use pipeline::request::{Class, Opaque, Payload, Reply, Wire};
use proto::inference::{ModelInferRequest, ModelInferResponse};

use super::{decode, frame, frame::Reader, good_end, invalid, only, reply, respond};
use crate::{
    frontend::{
        body::Body,
        call::{Call, Job},
        deadline::Patience,
        grpc::expansion,
        intake::Received,
        route::is_name,
    },
    models::Model,
    status::Failure,
    upstream::Protocol,
};

const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";
/// Longer messages go out as a frame of their own behind their head, instead of being copied after it.
const COPY_MAX: usize = 16 << 10;

/// An inference answer.
#[derive(Debug)]
pub(super) enum Inferred {
    Message(ModelInferResponse),
    /// A `ModelInferResponse` as the model server wrote it.
    Encoded(Bytes),
}

pub(super) async fn unary(
    call: &mut Call,
    headers: &HeaderMap,
    reader: Reader,
    patience: Patience,
) -> Result<Response<Body>, Failure> {
    let received = only(call, reader, patience).await?;
    match infer(call, headers, received, patience).await? {
        Inferred::Message(message) => Ok(reply(&message)),
        Inferred::Encoded(message) => framed(message),
    }
}

fn framed(message: Bytes) -> Result<Response<Body>, Failure> {
    let copied = if message.len() <= COPY_MAX { message.len() } else { 0 };
    let mut head = frame::begin(message.len(), copied).ok_or_else(Failure::internal)?;
    if copied == message.len() {
        head.put(message);
        return Ok(respond(Body::with_trailers(head.freeze(), good_end())));
    }
    Ok(respond(Body::in_two(head.freeze(), message, good_end())))
}

/// Answers one inference message.
pub(super) async fn infer(
    call: &mut Call,
    headers: &HeaderMap,
    mut received: Received,
    patience: Patience,
) -> Result<Inferred, Failure> {
    let message = received.body.clone();
    received.charge.raise_to(message.len() + expansion::of(&message)).await?;
    let request: ModelInferRequest = decode(message)?;
    if !is_name(&request.model_name) {
        return Err(invalid("model_name is empty or not a name"));
    }
    let model = call.find_model(&request.model_name)?;
    if model.forwards(Protocol::V2Grpc) {
        forward(call, headers, &model, (request, received), patience).await
    } else {
        transcode(call, headers, &model, (request, received), patience).await
    }
}

/// Hands the message on as it came.
async fn forward(
    call: &mut Call,
    headers: &HeaderMap,
    model: &Model,
    (request, received): (ModelInferRequest, Received),
    patience: Patience,
) -> Result<Inferred, Failure> {
    let (timeout, class) = if has_parameters(&request) {
        let decoded = grpc::decode_request(request)?;
        (decoded.timeout, decoded.class.unwrap_or_default())
    } else {
        (None, Class::default())
    };
    let deadline = patience.and(timeout).deadline(model.deadlines())?;
    let payload = Payload::Opaque(Opaque {
        wire: Wire::Grpc,
        path: PathAndQuery::from_static(PATH),
        headers: HeaderMap::new(),
        body: received.body,
        streamed: false,
    });
    let job = Job { payload, deadline, class, charge: received.charge };
    match call.run(model, headers, job).await? {
        Reply::Opaque(reply) => Ok(Inferred::Encoded(reply.body)),
        Reply::Tensors(_) | Reply::Stream(_) => Err(Failure::internal()),
    }
}

/// Whether the message says more than what to compute: then the full decoder has a look at it.
fn has_parameters(request: &ModelInferRequest) -> bool {
    !request.parameters.is_empty()
        || request.inputs.iter().any(|input| !input.parameters.is_empty())
        || request.outputs.iter().any(|output| !output.parameters.is_empty())
}

async fn transcode(
    call: &mut Call,
    headers: &HeaderMap,
    model: &Model,
    (request, received): (ModelInferRequest, Received),
    patience: Patience,
) -> Result<Inferred, Failure> {
    let decoded = grpc::decode_request(request)?;
    if let Some(metadata) = model.known_metadata() {
        convert::metadata::check(&decoded.inference, &metadata)?;
    }
    let deadline = patience.and(decoded.timeout).deadline(model.deadlines())?;
    let id = decoded.inference.id.clone();
    let class = decoded.class.unwrap_or_default();
    let payload = Payload::Tensors(decoded.inference);
    let job = Job { payload, deadline, class, charge: received.charge };
    match call.run(model, headers, job).await? {
        Reply::Tensors(outcome) => {
            let message = grpc::encode_response(model.name(), &outcome, &id, &decoded.mirror)?;
            Ok(Inferred::Message(message))
        }
        Reply::Opaque(_) | Reply::Stream(_) => Err(Failure::internal()),
    }
}
