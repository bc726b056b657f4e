//! `POST /v1/models/{m}:predict`, as TensorFlow Serving and KServe know it.

use convert::v1;
use http::{Response, request::Parts};
use hyper::body::Incoming;
use pipeline::request::{Class, Payload, Reply};
use tokio::time::Instant;

use super::{encoded, forwarded, media, receive, returned};
use crate::{
    frontend::{
        body::Body,
        call::{Call, Job},
        deadline::Patience,
        intake::Received,
        route::Target,
    },
    models::Model,
    status::Failure,
    upstream::Protocol,
};

pub(super) async fn predict(
    call: &mut Call,
    head: &Parts,
    target: &Target<'_>,
    body: &mut Incoming,
) -> Result<Response<Body>, Failure> {
    let model = call.find_model(&target.name)?;
    let deadline = Patience::of(&head.headers, call.started())?.deadline(model.deadlines())?;
    media::check(&head.headers, &["application/json"])?;
    let received = receive(call, head, body, deadline).await?;
    if model.forwards(Protocol::V1) {
        return forward(call, head, &model, received, deadline).await;
    }
    transcode(call, head, (&model, target), received, deadline).await
}

async fn forward(
    call: &mut Call,
    head: &Parts,
    model: &Model,
    received: Received,
    deadline: Instant,
) -> Result<Response<Body>, Failure> {
    let payload = Payload::Opaque(forwarded(head, received.body));
    let job = Job { payload, deadline, class: Class::default(), charge: received.charge };
    match call.run(model, &head.headers, job).await? {
        Reply::Opaque(reply) => Ok(returned(reply)),
        Reply::Tensors(_) | Reply::Stream(_) => Err(Failure::internal()),
    }
}

/// V1 bodies name no datatypes: the model's metadata does, so a model that never ran is started for it.
async fn transcode(
    call: &mut Call,
    head: &Parts,
    (model, target): (&Model, &Target<'_>),
    mut received: Received,
    deadline: Instant,
) -> Result<Response<Body>, Failure> {
    let metadata = call.metadata(model, deadline).await?;
    let expanded = v1::decoded_bytes(&received.body, &metadata);
    received.charge.raise_to(received.body.len() + expanded).await?;
    let limits = call.decoder_limits();
    let mut decoded = v1::decode_request(&received.body, &metadata, &limits)?;
    if let Some(version) = &target.version {
        decoded.inference.version = version.clone().into_owned();
    }
    let class = decoded.class.unwrap_or_default();
    let payload = Payload::Tensors(decoded.inference);
    let job = Job { payload, deadline, class, charge: received.charge };
    match call.run(model, &head.headers, job).await? {
        Reply::Tensors(outcome) => Ok(encoded(v1::encode_response(&outcome, &decoded.mirror)?)),
        Reply::Opaque(_) | Reply::Stream(_) => Err(Failure::internal()),
    }
}
