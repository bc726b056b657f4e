//! The leader's side: what gateways report, dated by the local clock as it arrives, and what they are told.
//!
//! Only the newest report of each gateway and model is kept, and only of models that somebody here decides for.
//! Silence is kept too: a gateway that discovery lists and that was never heard is known, with no report.

mod board;
mod gateways;
mod handshake;
mod source;
mod withdrawal;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use autoscaler::{reconcile::Outlook, snapshot::GatewayView};
use proto::signals;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub use self::source::ModelSource;
use self::{board::Board, gateways::Gateways, withdrawal::Withdrawal};
pub(crate) use self::{board::Follower, gateways::Refusal};
use crate::{
    keda::{Desired, Wanted},
    metrics::{Hearing, Metrics},
};

/// A wish to wake that is older than this was answered, or has come again.
const WAKE_STANDS: Duration = Duration::from_secs(3);

/// How often the metrics are brought up to date by whoever reads.
const MEASURED_EVERY: Duration = Duration::from_secs(1);

/// Names of the gateways that discovery lists.
pub type Listed = Arc<BTreeSet<Arc<str>>>;

/// What all gateways say, and what they are told. A cheap handle.
#[derive(Clone, Debug)]
pub struct Collector {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    listed: watch::Receiver<Listed>,
    /// The newest version on the board that should not wait for the next second.
    urgent: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    gateways: Gateways,
    models: BTreeMap<Arc<str>, Model>,
    board: Board,
    /// The last id of a call or a source.
    id: u64,
    /// The last number of a withdrawal. Begins anywhere, so that no gateway takes it for that of another process.
    number: u64,
    metrics: Metrics,
}

/// A model that somebody here decides for.
#[derive(Debug)]
struct Model {
    /// Of the newest source: one that was replaced has no say any more.
    source: u64,
    since: Instant,
    /// Something was heard of it, or a gateway came or went.
    heard: Arc<Notify>,
    woken: Option<Instant>,
    told: Option<Told>,
    withdrawal: Withdrawal,
}

/// The decision that stands.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    desired: u32,
    outlook: Outlook,
    why: Arc<str>,
}

/// One gateway's call, until dropped.
#[derive(Debug)]
pub(crate) struct Call {
    collector: Collector,
    gateway: Arc<str>,
    id: u64,
    replaced: CancellationToken,
}

impl Collector {
    /// A collector that has heard nobody. `listed` must have been read from discovery before decisions are taken:
    /// a gateway that neither discovery nor a call of its own makes known is not asked before replicas go.
    #[must_use]
    pub fn new(listed: watch::Receiver<Listed>) -> Self {
        let state = State {
            gateways: Gateways::default(),
            models: BTreeMap::new(),
            board: Board::default(),
            id: 0,
            number: rand::random(),
            metrics: Metrics::new(),
        };
        let (urgent, _) = watch::channel(0);
        Self { inner: Arc::new(Inner { state: Mutex::new(state), listed, urgent }) }
    }

    /// The signals of `model`, which is known to gateways and to KEDA for as long as this lives. A second source
    /// of the same model replaces the first.
    #[must_use]
    pub fn source(&self, model: Arc<str>) -> ModelSource {
        let mut state = self.lock();
        let id = state.next_id();
        let known = state.models.entry(Arc::clone(&model)).or_insert_with(Model::new);
        known.source = id;
        ModelSource::new(self.clone(), model, id, Arc::clone(&known.heard))
    }

    /// Takes a gateway in by its first message. An earlier call of the same gateway is over.
    pub(crate) fn join(&self, hello: &signals::Hello) -> Result<Call, Refusal> {
        let mut state = self.lock();
        let listed = self.listed();
        let id = state.next_id();
        let (gateway, replaced) = state.gateways.join(hello, id, &listed)?;
        state.of_gateways_changed(&listed);
        Ok(Call { collector: self.clone(), gateway, id, replaced })
    }

    /// What is told from now on, and all that stands first.
    pub(crate) fn follow(&self) -> Follower {
        Follower::new(self.clone(), self.inner.urgent.subscribe())
    }

    fn views(&self, model: &str, now: Duration) -> Vec<GatewayView> {
        let listed = self.listed();
        let mut state = self.lock();
        let state = &mut *state;
        state.gateways.forget(&listed);
        if state.gateways.measured_before(MEASURED_EVERY) {
            state.measure(&listed);
        }
        let Some(known) = state.models.get_mut(model) else { return Vec::new() };
        let since = known.since;
        if known.withdrawal.expire(&mut state.number) {
            self.publish(state, model);
        }
        state.gateways.views(model, since, &listed, now)
    }

    /// Puts what stands of `model` on the board, to be sent at once.
    fn publish(&self, state: &mut State, model: &str) {
        let Some((name, known)) = state.models.get_key_value(model) else { return };
        if known.told.is_some() {
            let version = state.board.changed(name);
            self.inner.urgent.send_replace(version);
        }
    }

    /// Puts a decision on the board. Other words for the one that stands can wait for the next second.
    fn tell(&self, model: &str, source: u64, told: Told) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some((name, _)) = state.models.get_key_value(model) else { return };
        let name = Arc::clone(name);
        let Some(known) = state.models.get_mut(model).filter(|known| known.source == source) else { return };
        let before = known.told.replace(told.clone());
        if before.as_ref() == Some(&told) {
            return;
        }
        if before.as_ref().is_some_and(|before| told.desired > before.desired) {
            known.withdrawal.hasten();
        }
        let version = state.board.changed(&name);
        let only_words = |before: &Told| (before.desired, &before.outlook) == (told.desired, &told.outlook);
        if !before.as_ref().is_some_and(only_words) {
            self.inner.urgent.send_replace(version);
        }
    }

    /// Whether a gateway has asked for a replica of `model` since this was last asked.
    fn take_wake(&self, model: &str) -> bool {
        let woken = self.lock().models.get_mut(model).and_then(|known| known.woken.take());
        woken.is_some_and(|at| at.elapsed() <= WAKE_STANDS)
    }

    /// Forgets `model` unless another source has taken over.
    fn drop_source(&self, model: &str, source: u64) {
        let mut state = self.lock();
        let state = &mut *state;
        if state.models.get(model).is_none_or(|known| known.source != source) {
            return;
        }
        state.models.remove(model);
        state.gateways.forget_model(model);
        state.measure(&self.listed());
        let version = state.board.removed(model);
        self.inner.urgent.send_replace(version);
    }

    fn listed(&self) -> Listed {
        Arc::clone(&self.inner.listed.borrow())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desired for Collector {
    fn desired(&self, model: &str) -> Option<Wanted> {
        let state = self.lock();
        let known = state.models.get(model)?;
        Some(Wanted {
            replicas: known.told.as_ref().map(|told| told.desired),
            waiting: state.gateways.waits(model),
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.urgent.subscribe()
    }
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.id += 1;
        self.id
    }

    /// Who is not heard matters to nobody where nothing is decided.
    fn measure(&mut self, listed: &Listed) {
        let hearing = self.gateways.hearing(listed);
        self.metrics.hearing(&if self.models.is_empty() { Hearing::default() } else { hearing });
    }

    fn of_gateways_changed(&mut self, listed: &Listed) {
        self.measure(listed);
        self.models.values().for_each(|model| model.heard.notify_waiters());
    }
}

impl Model {
    fn new() -> Self {
        Self {
            source: 0,
            since: Instant::now(),
            heard: Arc::default(),
            woken: None,
            told: None,
            withdrawal: Withdrawal::default(),
        }
    }
}

impl Call {
    /// Takes reports in, unless another call of this gateway has begun.
    pub(crate) fn hear(&self, reports: signals::Reports) {
        let mut state = self.collector.lock();
        let State { gateways, models, .. } = &mut *state;
        gateways.hear((&self.gateway, self.id), reports, models);
    }

    /// Resolves when another call of the same gateway has begun.
    pub(crate) async fn replaced(&self) {
        self.replaced.cancelled().await;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let listed = self.collector.listed();
        let mut state = self.collector.lock();
        if state.gateways.leave(&self.gateway, self.id) {
            state.of_gateways_changed(&listed);
        }
    }
}
