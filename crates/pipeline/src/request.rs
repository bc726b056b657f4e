//! The domain words of one client call. No protobuf, no serde, no codec.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::time::Instant;

use crate::{
    admit::Charge,
    board::Slot,
    chat::{Chat, Delivery, Run},
    error::CallError,
    tensor::{Parameters, Tensor},
    trace::Traced,
};

/// One client call as the pipeline sees it.
#[derive(Debug)]
pub struct Request {
    pub payload: Payload,
    /// When the call must have its answer.
    pub deadline: Instant,
    pub class: Class,
    /// Whose quota it is; empty where tenants are not told apart.
    pub tenant: Arc<str>,
    /// Carried on to the model server: `traceparent`, `tracestate`, `x-request-id`.
    pub trace: http::HeaderMap,
    /// Where spans of it are recorded.
    pub traced: Option<Arc<Traced>>,
    /// The memory this call was admitted with, given back when it ends.
    pub charge: Charge,
    /// Of a call that generates tokens.
    pub chat: Option<Arc<Chat>>,
}

impl Request {
    /// When its answer must have come, or have begun to if it comes in pieces.
    pub(crate) fn answer_by(&self) -> Instant {
        match self.chat.as_deref() {
            Some(Chat { delivery: Delivery::Streamed { first_piece_by }, .. }) => {
                self.deadline.min(*first_piece_by)
            }
            _ => self.deadline,
        }
    }
}

/// Priority class. A lower class waits while a higher one is queued, with ageing, and is refused first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    High,
    #[default]
    Normal,
    Low,
}

/// What is to be computed: tensors the pipeline may merge, or a body it hands on as it came.
#[derive(Clone, Debug)]
pub enum Payload {
    Tensors(Inference),
    Opaque(Opaque),
}

/// An inference call in tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inference {
    /// Empty: the server's default version.
    pub version: String,
    /// The client's own id; not part of what is computed.
    pub id: String,
    pub inputs: Vec<Tensor>,
    /// Empty: every output.
    pub outputs: Vec<RequestedOutput>,
    /// Parameters that travel to the model server. `priority` and `timeout` are taken out by the decoder.
    pub parameters: Parameters,
}

impl Inference {
    /// Rows of the batch dimension, if there is at least one input and all inputs agree on them.
    #[must_use]
    pub fn rows(&self) -> Option<u64> {
        let mut rows = self.inputs.iter().map(Tensor::rows);
        let first = rows.next()??;
        rows.all(|r| r == Some(first)).then_some(first)
    }

    /// Bytes of tensor data.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.inputs.iter().map(|t| t.data.len()).sum()
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestedOutput {
    pub name: String,
    pub parameters: Parameters,
}

/// A body handed on untouched to a server that speaks the client's own protocol.
#[derive(Clone, Debug)]
pub struct Opaque {
    pub wire: Wire,
    /// Path and query on the model server, e.g. `/v2/models/digits/infer`.
    pub path: http::uri::PathAndQuery,
    /// The end-to-end headers that describe the body (`content-type`, `inference-header-content-length`, …).
    pub headers: http::HeaderMap,
    /// For gRPC: one message without its five-byte frame.
    pub body: Bytes,
    /// Whether the answer is wanted piece by piece, as it comes.
    pub streamed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    Http,
    Grpc,
}

/// What a model server answered.
#[derive(Debug)]
pub enum Reply {
    Tensors(Outcome),
    Opaque(OpaqueReply),
    Stream(StreamReply),
}

/// An inference answer in tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub model_name: String,
    pub model_version: String,
    pub outputs: Vec<Tensor>,
    pub parameters: Parameters,
}

#[derive(Clone, Debug)]
pub struct OpaqueReply {
    pub status: http::StatusCode,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

/// An answer of which the first piece is there.
pub struct StreamReply {
    pub headers: http::HeaderMap,
    pub first: Bytes,
    /// What follows; dropping it cancels the call at the server.
    pub rest: BoxStream<'static, Result<Bytes, CallError>>,
}

impl std::fmt::Debug for StreamReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamReply").field("headers", &self.headers).finish_non_exhaustive()
    }
}

/// The one good outcome of a request.
#[derive(Debug)]
pub struct Answer {
    pub reply: Reply,
    pub timings: Timings,
    /// Of a call that generates tokens: it ends when its last token is handed on.
    pub run: Option<Box<Run>>,
    /// The place at the replica, until [`run`](Self::run) has it.
    pub(crate) slot: Option<Slot>,
}

impl Answer {
    #[must_use]
    pub fn new(reply: Reply, timings: Timings) -> Self {
        Self { reply, timings, run: None, slot: None }
    }
}

/// Where the time of one request went; the source of `server-timing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From admission until its batch was closed.
    pub queue: Duration,
    /// Concatenating and splitting.
    pub batch: Duration,
    /// The model server's call, retries included.
    pub upstream: Duration,
    /// Rows of the call that answered it.
    pub batch_rows: u32,
    /// How long it waited for a replica to start, if it did.
    pub cold_start: Option<Duration>,
}

impl Timings {
    /// The longer of two in every part: what a request sent in parts is told.
    pub(crate) fn longest(self, other: Self) -> Self {
        Self {
            queue: self.queue.max(other.queue),
            batch: self.batch.max(other.batch),
            upstream: self.upstream.max(other.upstream),
            batch_rows: self.batch_rows.max(other.batch_rows),
            cold_start: self.cold_start.max(other.cold_start),
        }
    }
}
