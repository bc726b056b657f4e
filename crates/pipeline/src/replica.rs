//! A model server as the pipeline sees it: something that answers calls, and how busy it is.

use std::{fmt, sync::Arc};

use tokio::time::Instant;
use tower::util::BoxCloneSyncService;

use crate::{
    error::CallError,
    request::{Payload, Reply},
    trace::Traced,
};

/// One call to one model server.
#[derive(Debug, Clone)]
pub struct Call {
    pub payload: Payload,
    /// The server must answer, or begin to if its answer comes in pieces, before this.
    pub deadline: Instant,
    /// When the whole answer must be there: the server is told what remains of it.
    pub ends: Instant,
    /// Headers to carry on (`traceparent`, `tracestate`, `x-request-id`).
    pub trace: http::HeaderMap,
    /// How many requests it answers, more than one where they were merged.
    pub requests: usize,
    /// Those of them of which spans are recorded.
    pub traced: Vec<Arc<Traced>>,
}

/// Sends calls to one model server. Always ready: how many calls it may have is the pipeline's business.
/// Dropping the returned future cancels the call at the server.
pub type Upstream = BoxCloneSyncService<Call, Reply, CallError>;

/// One running, ready replica.
#[derive(Clone)]
pub struct Replica {
    pub id: Arc<str>,
    pub upstream: Upstream,
    /// When it became ready: the start of its slow start.
    pub ready_since: Instant,
    /// Held for as long as a call may still be running on the replica; whoever stops it waits for this to go.
    pub hold: tokio_util::task::task_tracker::TaskTrackerToken,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The ready replicas of a model and what was learned from them about merging rows.
#[derive(Clone, Debug, Default)]
pub struct ReplicaSet {
    pub replicas: Vec<Replica>,
    /// Whether the model's tensors have a batch dimension, by its metadata; `None` until some replica told.
    pub batch_dimension: Option<bool>,
}

/// What is to be expected while no replica is ready.
#[derive(Clone, Debug, PartialEq)]
pub enum Outlook {
    /// One is starting, or will be started for the next request. `eta`: when it should be ready.
    Starting { eta: Option<Instant> },
    /// None will start now; requests are refused with this.
    Off(crate::error::Rejection),
}
