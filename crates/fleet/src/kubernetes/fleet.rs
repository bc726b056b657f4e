//! Replicas as the autoscaler sees them: the pods of one object with a scale subresource, and its number.
//!
//! [`KubernetesFleet`] is a cheap handle. One task (`observer`) learns from shared watches who is there and what
//! number is asked for, by whomever; writes go on even if their caller does not wait, one at a time, so that it is
//! always known what came of them.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use autoscaler::fleet::{Fleet, Replica, ReplicaId, ScaleError, Target};
use tokio::sync::{Notify, OwnedMutexGuard, watch};
use tokio_util::task::AbortOnDropHandle;

use super::{
    cluster::Cluster,
    scale::{Change, Scaled, WriteError},
    target::TargetRef,
};

mod known;
mod meta;
mod observer;
mod victims;

use self::{known::Known, observer::Observer, victims::Marks};

#[derive(Clone, Debug)]
pub struct Config {
    /// The served name, for the log.
    pub model: Arc<str>,
    pub namespace: Arc<str>,
    pub target: TargetRef,
    /// Longest that one call of a write may take. A successor in office must not find that a write of its
    /// predecessor still arrives: at most what a lease lasts beyond its renew deadline.
    pub patience: Duration,
}

impl Config {
    /// The patience that suits a lease of 15 s that is renewed within 10 s.
    #[must_use]
    pub fn new(model: Arc<str>, namespace: Arc<str>, target: TargetRef) -> Self {
        Self { model, namespace, target, patience: Duration::from_secs(5) }
    }
}

/// Whether this process may write at this moment; asked right before each write.
pub type MayWrite = Arc<dyn Fn() -> bool + Send + Sync>;

/// A handle to the replicas of one model. They are watched as long as anybody holds one.
#[derive(Clone, Debug)]
pub struct KubernetesFleet {
    shared: Arc<Shared>,
    _observer: Arc<AbortOnDropHandle<()>>,
}

impl KubernetesFleet {
    /// Starts to watch. Must be called within a runtime, which then runs it.
    #[must_use]
    pub fn start(cluster: &Cluster, config: Config, may_write: MayWrite) -> Self {
        let shared = Arc::new(Shared {
            cluster: cluster.within(config.patience),
            config,
            may_write,
            known: Mutex::default(),
            replicas: watch::Sender::default(),
            target: watch::Sender::default(),
            news: Notify::new(),
            turn: Arc::default(),
        });
        let observer = tokio::spawn(Observer::new(cluster, Arc::clone(&shared)).run());
        Self { shared, _observer: Arc::new(AbortOnDropHandle::new(observer)) }
    }
}

impl Fleet for KubernetesFleet {
    fn replicas(&self) -> watch::Receiver<Arc<[Replica]>> {
        self.shared.replicas.subscribe()
    }

    fn target(&self) -> watch::Receiver<Target> {
        self.shared.target.subscribe()
    }

    async fn scale(&self, target: u32, victims: &[ReplicaId]) -> Result<(), ScaleError> {
        let Ok(turn) = Arc::clone(&self.shared.turn).try_lock_owned() else {
            return Err(ScaleError::Unavailable("the last write is still under way".into()));
        };
        if !(self.shared.may_write)() {
            return Err(ScaleError::Deposed);
        }
        match self.shared.order(target, victims)? {
            None => Ok(()),
            Some(order) => {
                let write = tokio::spawn(Arc::clone(&self.shared).carry_out(order, turn));
                let failed = |error| ScaleError::Unavailable(format!("the write failed: {error}").into());
                write.await.unwrap_or_else(|error| Err(failed(error)))
            }
        }
    }
}

/// What handles, the observer and a write under way have together.
struct Shared {
    config: Config,
    /// Of the patience for writes.
    cluster: Cluster,
    may_write: MayWrite,
    known: Mutex<Known>,
    replicas: watch::Sender<Arc<[Replica]>>,
    target: watch::Sender<Target>,
    /// `known` was changed by a write.
    news: Notify,
    /// Whose turn it is to write.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// What is to be written.
struct Order {
    scaled: Scaled,
    change: Change,
    marks: Marks,
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, to: u32, victims: &[ReplicaId]) -> Result<Option<Order>, ScaleError> {
        let known = self.known();
        let (Some(resource), Some(scale)) = (&known.resource, &known.scale) else {
            let trouble = self.target.borrow().trouble.clone();
            return Err(ScaleError::Unavailable(
                trouble.unwrap_or_else(|| "its number is not known yet".into()),
            ));
        };
        let Config { namespace, target, .. } = &self.config;
        let from = scale.replicas;
        if from == to {
            return Ok(None);
        }
        let scaled = Scaled::new(&self.cluster, resource, namespace, target.name(), "tidegate");
        let change = Change { uid: Some(Arc::clone(&scale.uid)), from, to };
        let going = if victims::are_heeded(&resource.kind) { from.saturating_sub(to) } else { 0 };
        let marks = Marks::choose(&known.pods, victims, going as usize);
        Ok(Some(Order { scaled, change, marks }))
    }

    async fn carry_out(self: Arc<Self>, order: Order, turn: OwnedMutexGuard<()>) -> Result<(), ScaleError> {
        let Order { scaled, change, marks } = order;
        let Config { model, namespace, .. } = &self.config;
        marks.set(&self.cluster, namespace, &*self.may_write).await;
        let written = scaled.write(&change, || (self.may_write)()).await;
        // While it is not known whether the write was done, the victims should be those that were chosen.
        if matches!(&written, Err(WriteError::Conflict(_)))
            || matches!(&written, Err(WriteError::Failed(error)) if !error.is_unsure())
        {
            marks.restore(&self.cluster, namespace, &*self.may_write).await;
        }
        let result = match written {
            Ok(scale) => {
                tracing::info!(%model, from = change.from, to = change.to, "scaled");
                let replicas = scale.replicas;
                self.known().wrote(scale);
                // Whoever looks next must not find the number of before.
                self.target.send_modify(|target| {
                    target.replicas = Some(replicas);
                    target.foreign = None;
                });
                Ok(())
            }
            Err(WriteError::Conflict(scale)) => {
                self.known().accept(scale);
                Err(ScaleError::Conflict)
            }
            Err(WriteError::Deposed) => Err(ScaleError::Deposed),
            Err(WriteError::Failed(error)) => {
                let words = error.to_string().into();
                self.known().refused(error);
                Err(ScaleError::Unavailable(words))
            }
        };
        self.news.notify_one();
        drop(turn);
        result
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}
