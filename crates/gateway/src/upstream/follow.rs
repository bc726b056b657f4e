//! Keeps the pipeline's replicas in step with a fleet, and learns from them what the model says of itself.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _};
use pipeline::{
    CallError,
    replica::{Replica, ReplicaSet},
    tensor::Metadata,
};
use tokio::{
    sync::watch,
    task::{AbortHandle, Id, JoinSet},
    time::{Instant, sleep},
};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, info, warn};

use super::{Config, Description, Protocol, Server};

/// How often a replica is asked to describe its model, and how long after the first refusal; doubled each
/// time.
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// A ready replica, as its fleet knows it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub id: Arc<str>,
    pub address: SocketAddr,
    pub ready_since: Instant,
    /// Held for as long as a call may be running on the replica.
    pub hold: TaskTrackerToken,
}

/// Follows the endpoints of one model. Connections to endpoints that stay are kept; those to endpoints that
/// left are closed when their last call has ended.
#[derive(Debug)]
pub struct Follower<F> {
    config: Config,
    set_replicas: F,
    metadata: watch::Sender<Option<Arc<Metadata>>>,
    members: Vec<Member>,
    lessons: JoinSet<Result<Description, CallError>>,
    /// As last learned, also while no replica is there to ask.
    batch_dimension: Option<bool>,
}

#[derive(Debug)]
struct Member {
    replica: Replica,
    address: SocketAddr,
    learned: Option<Arc<Metadata>>,
    lesson: AbortHandle,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.lesson.abort();
    }
}

impl Member {
    /// A replica that was restarted at its old address counts as another one: its model may have changed.
    fn is(&self, endpoint: &Endpoint) -> bool {
        self.replica.id == endpoint.id
            && self.address == endpoint.address
            && self.replica.ready_since == endpoint.ready_since
    }
}

impl<F: FnMut(ReplicaSet)> Follower<F> {
    /// A follower without endpoints. `set_replicas` is told of every change; the receiver has the model's
    /// metadata as last learned, and keeps it while there are no replicas.
    #[must_use]
    pub fn new(config: Config, set_replicas: F) -> (Self, watch::Receiver<Option<Arc<Metadata>>>) {
        let (metadata, receiver) = watch::channel(None);
        // The inputs of one call are independent by definition of that protocol.
        let batch_dimension = (config.protocol == Protocol::OpenAi).then_some(true);
        let follower = Self {
            config,
            set_replicas,
            metadata,
            members: Vec::new(),
            lessons: JoinSet::new(),
            batch_dimension,
        };
        (follower, receiver)
    }

    /// Follows until `endpoints` ends, each item being all ready replicas. The last ones stay in place after
    /// that.
    pub async fn follow(mut self, endpoints: impl Stream<Item = Vec<Endpoint>>) {
        let mut endpoints = std::pin::pin!(endpoints);
        loop {
            tokio::select! {
                next = endpoints.next() => match next {
                    Some(endpoints) => self.update(endpoints),
                    None => return,
                },
                Some(lesson) = self.lessons.join_next_with_id() => match lesson {
                    Ok((id, description)) => self.learn(id, description),
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => warn!(model = %self.config.model, %error, "asking for metadata failed"),
                },
            }
        }
    }

    fn update(&mut self, endpoints: Vec<Endpoint>) {
        let mut before = std::mem::take(&mut self.members);
        for endpoint in endpoints {
            let known = before.iter().position(|member| member.is(&endpoint));
            let member = match known {
                Some(index) => before.swap_remove(index),
                None => self.join(endpoint),
            };
            self.members.push(member);
        }
        drop(before);
        self.publish();
    }

    /// A new replica takes calls at once; what it says of its model follows.
    fn join(&mut self, endpoint: Endpoint) -> Member {
        let Endpoint { id, address, ready_since, hold } = endpoint;
        let server = Arc::new(Server::new(address, &self.config));
        let upstream = server.upstream();
        let lesson = self.lessons.spawn(describe(server));
        let replica = Replica { id, upstream, ready_since, hold };
        Member { replica, address, learned: None, lesson }
    }

    fn learn(&mut self, lesson: Id, description: Result<Description, CallError>) {
        let model = &self.config.model;
        let Some(member) = self.members.iter_mut().find(|member| member.lesson.id() == lesson) else {
            return;
        };
        match description {
            Ok(description) => {
                let metadata = Arc::new(description.model);
                member.learned = Some(Arc::clone(&metadata));
                self.tell(metadata);
                self.publish();
            }
            Err(_) if self.config.protocol == Protocol::OpenAi => {}
            Err(error) => {
                let replica = &member.replica.id;
                info!(%model, %replica, %error, "the replica does not describe its model");
                if matches!(error, CallError::Refused { .. }) && self.batch_dimension.is_none() {
                    // There is no description to wait for: without one, rows are not merged.
                    self.batch_dimension = Some(false);
                    self.publish();
                }
            }
        }
    }

    fn tell(&self, metadata: Arc<Metadata>) {
        let differs = self
            .members
            .iter()
            .filter_map(|member| member.learned.as_ref())
            .any(|other| other.inputs != metadata.inputs || other.outputs != metadata.outputs);
        if differs {
            warn!(model = %self.config.model, "replicas describe the model differently");
        }
        self.metadata.send_if_modified(|told| {
            let news = told.as_ref() != Some(&metadata);
            *told = Some(metadata);
            news
        });
    }

    fn publish(&mut self) {
        let mut learned = self.members.iter().filter_map(|member| member.learned.as_ref()).peekable();
        if learned.peek().is_some() {
            self.batch_dimension = Some(learned.all(|metadata| metadata.has_batch_dimension()));
        }
        let replicas = self.members.iter().map(|member| member.replica.clone()).collect();
        (self.set_replicas)(ReplicaSet { replicas, batch_dimension: self.batch_dimension });
    }
}

/// Asks until there is an answer or no attempt is left.
async fn describe(server: Arc<Server>) -> Result<Description, CallError> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..ATTEMPTS {
        match server.describe().await {
            Ok(description) => return Ok(description),
            // A server that does not know the question will not learn it.
            Err(error @ CallError::Refused { .. }) => return Err(error),
            Err(error) => debug!(%error, ?pause, "asking for metadata again"),
        }
        sleep(pause).await;
        pause *= 2;
    }
    server.describe().await
}

#[cfg(test)]
mod tests;
