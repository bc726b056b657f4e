//! `POST …/infer` of the Open Inference Protocol over REST.

use bytes::Bytes;
use convert::{Decoded, v2};
use http::{Response, request::Parts};
use hyper::body::Incoming;
use memchr::memmem;
use pipeline::request::{Payload, Reply};
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

const MEDIA: [&str; 2] = ["application/json", "application/octet-stream"];
/// What a body must contain before it is worth a look at its parameters.
const PARAMETERS: [&str; 2] = ["\"timeout\"", "\"priority\""];
const SHARED_MEMORY: &str = "\"shared_memory_";

pub(super) async fn infer(
    call: &mut Call,
    head: &Parts,
    target: &Target<'_>,
    body: &mut Incoming,
) -> Result<Response<Body>, Failure> {
    let model = call.find_model(&target.name)?;
    let patience = Patience::of(&head.headers, call.started())?;
    let deadline = patience.deadline(model.deadlines())?;
    media::check(&head.headers, &MEDIA)?;
    let header_length = media::header_length(&head.headers)?;
    let received = receive(call, head, body, deadline).await?;
    let arrived = Arrived { model: &model, head, target, patience, header_length };
    if model.forwards(Protocol::V2Http) {
        arrived.forward(call, received).await
    } else {
        arrived.transcode(call, received, deadline).await
    }
}

/// A call whose body is there.
struct Arrived<'a> {
    model: &'a Model,
    head: &'a Parts,
    target: &'a Target<'a>,
    patience: Patience,
    header_length: Option<usize>,
}

impl Arrived<'_> {
    /// Hands the body on as it came.
    async fn forward(self, call: &mut Call, received: Received) -> Result<Response<Body>, Failure> {
        let Received { body, charge } = received;
        let json = self.json(&body);
        if mentions(json, SHARED_MEMORY) {
            // The full decoder tells a parameter from a tensor's name.
            let limits = call.decoder_limits();
            v2::parse(&body, self.header_length)?.decode(&limits)?;
        }
        let asks = PARAMETERS.iter().any(|parameter| mentions(json, parameter));
        let (timeout, class) = if asks {
            let peek = v2::peek(json);
            (peek.timeout, peek.class)
        } else {
            (None, None)
        };
        let deadline = self.patience.and(timeout).deadline(self.model.deadlines())?;
        let payload = Payload::Opaque(forwarded(self.head, body));
        let job = Job { payload, deadline, class: class.unwrap_or_default(), charge };
        match call.run(self.model, &self.head.headers, job).await? {
            Reply::Opaque(reply) => Ok(returned(reply)),
            Reply::Tensors(_) | Reply::Stream(_) => Err(Failure::internal()),
        }
    }

    /// Decodes the body into tensors and encodes the answer as the client likes it.
    async fn transcode(
        self,
        call: &mut Call,
        mut received: Received,
        deadline: Instant,
    ) -> Result<Response<Body>, Failure> {
        let mut decoded = self.decode(call, &mut received, deadline).await?;
        if let Some(metadata) = self.model.known_metadata() {
            convert::metadata::check(&decoded.inference, &metadata)?;
        }
        if let Some(version) = &self.target.version {
            decoded.inference.version = version.clone().into_owned();
        }
        let deadline = self.patience.and(decoded.timeout).deadline(self.model.deadlines())?;
        let id = decoded.inference.id.clone();
        let class = decoded.class.unwrap_or_default();
        let payload = Payload::Tensors(decoded.inference);
        let job = Job { payload, deadline, class, charge: received.charge };
        match call.run(self.model, &self.head.headers, job).await? {
            Reply::Tensors(outcome) => {
                Ok(encoded(v2::encode_response(self.model.name(), &outcome, &id, &decoded.mirror)?))
            }
            Reply::Opaque(_) | Reply::Stream(_) => Err(Failure::internal()),
        }
    }

    async fn decode(
        &self,
        call: &mut Call,
        received: &mut Received,
        deadline: Instant,
    ) -> Result<Decoded, Failure> {
        if self.header_length == Some(0) {
            let metadata = call.metadata(self.model, deadline).await?;
            return Ok(v2::parse_raw(&received.body, &metadata)?);
        }
        let limits = call.decoder_limits();
        let parsed = v2::parse(&received.body, self.header_length)?;
        received.charge.raise_to(received.body.len() + parsed.decoded_bytes()).await?;
        Ok(parsed.decode(&limits)?)
    }

    /// The part of the body that is JSON.
    fn json<'b>(&self, body: &'b Bytes) -> &'b [u8] {
        self.header_length.and_then(|length| body.get(..length)).unwrap_or(body)
    }
}

fn mentions(json: &[u8], text: &str) -> bool {
    memmem::find(json, text.as_bytes()).is_some()
}
