//! The one seam between deciding and doing: where replicas run, and the means to change their number.

use std::{future::Future, net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The replicas of one model and the means to change their number.
pub trait Fleet: Send + Sync + 'static {
    /// The replicas as they are, newest state last seen. Leaving replicas are listed until they are gone.
    fn replicas(&self) -> watch::Receiver<Arc<[Replica]>>;

    /// What the platform knows of their number, newest state last seen. By default nothing: then nobody but the
    /// caller of [`scale`](Self::scale) changes it.
    fn target(&self) -> watch::Receiver<Target> {
        watch::channel(Target::default()).1
    }

    /// Asks for `target` replicas. Returns once the wish is written, not once it is fulfilled. On the way down
    /// pending replicas go first, then unready ones, then those of `victims` in that order, then the youngest.
    fn scale(
        &self,
        target: u32,
        victims: &[ReplicaId],
    ) -> impl Future<Output = Result<(), ScaleError>> + Send;
}

pub type ReplicaId = Arc<str>;

/// The number of replicas as the platform has it, and whoever else has a say in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    /// The number that is asked for, by whomever; `None` where only this process knows, or where it was not read
    /// yet: then `unheard_since` or `trouble` is there.
    pub replicas: Option<u32>,
    /// Who set that number, where it was not Tidegate: the name the platform knows the writer by.
    pub foreign: Option<Arc<str>>,
    /// Another autoscaler of the same object, like `HorizontalPodAutoscaler/digits`.
    pub rival: Option<Arc<str>>,
    /// Replicas are being exchanged for those of another revision.
    pub rollout: bool,
    /// Since when the platform has not been heard; `None`: all of this is current.
    pub unheard_since: Option<Instant>,
    /// Why the number cannot be set at all, in words: the object is not there, or we may not.
    pub trouble: Option<Arc<str>>,
}

/// One model server, from the wish to its end.
#[derive(Clone, Debug)]
pub struct Replica {
    pub id: ReplicaId,
    /// Where it listens, once that is known.
    pub address: Option<SocketAddr>,
    pub phase: Phase,
    /// When it was asked for.
    pub created: Instant,
    /// When it first became ready in its present life.
    pub ready_since: Option<Instant>,
    /// Times it ended by itself since it was created.
    pub restarts: u32,
    /// Why it is not ready, in words, if something is wrong.
    pub trouble: Option<Arc<str>>,
    /// Held by whoever may still have a call running on it; a leaving replica is stopped when all are gone.
    pub hold: TaskTrackerToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Asked for; nothing runs yet (unscheduled, or waiting to be restarted after a crash).
    Pending,
    /// Runs, and its model is not ready.
    Starting,
    /// Its model is ready.
    Ready,
    /// Gets nothing new; finishes what it has and stops.
    Draining,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ScaleError {
    #[error("a fleet of fixed addresses cannot be scaled")]
    Fixed,
    #[error("the replica count was changed by someone else")]
    Conflict,
    /// Nothing was written, and nothing must be until this process leads again.
    #[error("this process does not lead any more")]
    Deposed,
    #[error("{0}")]
    Unavailable(Arc<str>),
}
