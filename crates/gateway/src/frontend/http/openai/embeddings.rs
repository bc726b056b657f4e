//! Requests for embeddings, which are merged like tensors: each caller gets the rows of its own inputs.

use bytes::Bytes;
use convert::openai::{
    Endpoint,
    embeddings::{decode, encode_response},
};
use http::{Response, StatusCode, header};
use pipeline::request::{Inference, Payload, Reply};

use super::{super::json, Asked};
use crate::{
    frontend::{
        body::Body,
        call::{Call, Caller, Job},
        intake::Received,
    },
    status::Failure,
};

/// The rows of a request, where the model merges and the request can be taken apart. What cannot is for the engine
/// to judge, as a whole.
pub(super) fn rows(asked: &Asked<'_>, received: &Received) -> Option<Inference> {
    if asked.endpoint != Endpoint::Embeddings || asked.model.dispatch().passes_through() {
        return None;
    }
    let credential = match asked.head.headers.get(header::AUTHORIZATION) {
        Some(credential) => Some(credential.to_str().ok()?),
        None => None,
    };
    Some(decode(&received.body).ok()?.to_inference(credential))
}

impl Asked<'_> {
    /// Has inputs embedded, if need be together with those of others.
    pub(super) async fn embed(
        self,
        call: &mut Call,
        received: Received,
        inference: Inference,
    ) -> Result<Response<Body>, Failure> {
        let caller = Caller { tenant: self.tenant(call), chat: None };
        let job = Job {
            payload: Payload::Tensors(inference),
            deadline: self.deadline,
            class: self.peek.class.unwrap_or_default(),
            charge: received.charge,
        };
        match call.run_for(self.model, &self.head.headers, job, caller).await?.reply {
            Reply::Tensors(outcome) => {
                let body: Bytes = encode_response(&outcome).map_err(|_error| Failure::internal())?;
                Ok(json(StatusCode::OK, body))
            }
            Reply::Opaque(_) | Reply::Stream(_) => Err(Failure::internal()),
        }
    }
}
