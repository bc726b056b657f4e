//! The loop: observe → decide → actuate, each second and at once when a request finds no replica.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    decide::{Decision, decide},
    fleet::{Fleet, Phase, Replica, ScaleError},
    log::{Entry, Log, Outcome},
    metrics::Metrics,
    policy::{Mode, Policy},
    snapshot::{FleetView, GatewayView, ReplicaView, Snapshot},
    state::State,
};

const TICK: Duration = Duration::from_secs(1);
/// Requests at zero and changes of the fleet that are followed at once within one tick; more wait for the tick.
const WAKES_PER_TICK: u8 = 10;
/// How long the first request at zero is alone before it is acted upon: those that come with it are then seen,
/// and one write serves them all.
const GATHER: Duration = Duration::from_millis(5);
/// Longest a write to the fleet may take.
const WRITE: Duration = Duration::from_secs(10);
/// First and longest pause after a write that failed.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Where signals come from.
pub trait Source: Send + Sync + 'static {
    /// Resolves when a request arrives and no replica is ready. May be dropped at any time.
    fn wake(&self) -> impl Future<Output = ()> + Send;

    /// Every gateway known, with its newest report; `now` is the time to put into a report taken here and now.
    fn gateways(&self, now: Duration) -> Vec<GatewayView>;
}

/// How the times of decisions relate to this process: `start` is `offset` after their epoch.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub start: Instant,
    pub offset: Duration,
}

impl Clock {
    #[must_use]
    pub fn now(&self) -> Duration {
        self.time(Instant::now())
    }

    #[must_use]
    pub fn time(&self, instant: Instant) -> Duration {
        match instant.checked_duration_since(self.start) {
            Some(after) => self.offset + after,
            None => self.offset.saturating_sub(self.start.duration_since(instant)),
        }
    }

    /// The instant of `time`; the start for anything before it.
    #[must_use]
    pub fn instant(&self, time: Duration) -> Instant {
        self.start + time.saturating_sub(self.offset)
    }
}

/// What requests that find no ready replica may expect.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Outlook {
    /// None is starting; the next request starts one.
    #[default]
    Asleep,
    /// One is starting, and should be ready at `eta`; `None` until a start was measured.
    Starting {
        eta: Option<Instant>,
    },
    Ready,
    /// None is ready, and all that start end again and again.
    Failed {
        trouble: Option<Arc<str>>,
    },
}

/// What others may read while the loop runs.
#[derive(Clone, Debug)]
pub struct Handle {
    pub log: Log,
    pub outlook: watch::Receiver<Outlook>,
    state: Arc<Mutex<State>>,
}

impl Handle {
    /// The memory as JSON, for [`State::from_json`] in the next process.
    #[must_use]
    pub fn saved(&self) -> String {
        lock(&self.state).to_json()
    }
}

/// The loop of one model.
#[derive(Debug)]
pub struct Reconciler<F, S> {
    fleet: F,
    source: S,
    policy: watch::Receiver<Arc<Policy>>,
    clock: Clock,
    replicas: watch::Receiver<Arc<[Replica]>>,
    state: Arc<Mutex<State>>,
    log: Log,
    outlook: watch::Sender<Outlook>,
    metrics: Metrics,
    model: Arc<str>,
    /// What the fleet was last asked for.
    wish: u32,
    pause: Pause,
}

/// The time in which the fleet is left alone after it refused.
#[derive(Debug, Default)]
struct Pause {
    until: Option<Duration>,
    last: Duration,
}

impl<F: Fleet, S: Source> Reconciler<F, S> {
    /// A loop that starts from what `state` remembers and from the replicas `fleet` has.
    pub fn new(
        model: Arc<str>,
        fleet: F,
        source: S,
        policy: watch::Receiver<Arc<Policy>>,
        clock: Clock,
        state: State,
    ) -> (Self, Handle) {
        let replicas = fleet.replicas();
        let wish = staying(&replicas.borrow());
        let (outlook, seen) = watch::channel(Outlook::default());
        let state = Arc::new(Mutex::new(state));
        let log = Log::default();
        let handle = Handle { log: log.clone(), outlook: seen, state: Arc::clone(&state) };
        let metrics = Metrics::new(&model);
        let pause = Pause::default();
        let this =
            Self { fleet, source, policy, clock, replicas, state, log, outlook, metrics, model, wish, pause };
        (this, handle)
    }

    /// Runs until `stop`. The replicas are left as they are.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut fleet = self.replicas.clone();
        let mut wakes = WAKES_PER_TICK;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => wakes = WAKES_PER_TICK,
                () = self.woken(), if wakes > 0 && self.listens() => wakes -= 1,
                Ok(()) = fleet.changed(), if wakes > 0 => wakes -= 1,
            }
            if stop.run_until_cancelled(self.step()).await.is_none() {
                return;
            }
        }
    }

    /// Whether a request that finds no replica should be acted upon before the next tick.
    fn listens(&self) -> bool {
        self.wish == 0 && self.pause.until.is_none_or(|until| self.clock.now() >= until)
    }

    async fn woken(&self) {
        self.source.wake().await;
        tokio::time::sleep(GATHER).await;
    }

    async fn step(&mut self) {
        let now = self.clock.now();
        let policy = Arc::clone(&self.policy.borrow());
        let snapshot = self.look(now);
        let decision = self.decide(&policy, &snapshot, now);
        let outcome = self.actuate(&policy, &decision, &snapshot).await;
        self.foresee(&decision);
        self.metrics.decided(&decision, &outcome);
        self.tell(Entry { decision, outcome });
    }

    fn look(&self, now: Duration) -> Snapshot {
        let replicas = self.replicas.borrow().iter().map(|r| seen(r, &self.clock)).collect();
        Snapshot { gateways: self.source.gateways(now), fleet: FleetView { wanted: self.wish, replicas } }
    }

    fn decide(&self, policy: &Policy, snapshot: &Snapshot, now: Duration) -> Decision {
        let mut state = lock(&self.state);
        self.metrics.started(&state.observe(policy, snapshot, now));
        let decision = decide(policy, &state, snapshot, now);
        state.commit(&decision);
        decision
    }

    async fn actuate(&mut self, policy: &Policy, decision: &Decision, snapshot: &Snapshot) -> Outcome {
        if decision.to == self.wish {
            return Outcome::Unchanged;
        }
        if policy.mode == Mode::Observe {
            return Outcome::Observed;
        }
        if let Some(until) = self.pause.until.filter(|until| decision.at < *until) {
            return Outcome::BackingOff(until);
        }
        let victims = if decision.to < self.wish { snapshot.victims() } else { Vec::new() };
        match timeout(WRITE, self.fleet.scale(decision.to, &victims)).await {
            Ok(Ok(())) => self.written(decision.to),
            Ok(Err(error)) => self.refused(&error, decision.at),
            Err(_) => self.refused(&ScaleError::Unavailable("it did not answer in time".into()), decision.at),
        }
    }

    fn written(&mut self, wish: u32) -> Outcome {
        self.wish = wish;
        self.pause = Pause::default();
        Outcome::Applied
    }

    /// The fleet is left alone for a while; what is then written is what is then decided.
    fn refused(&mut self, error: &ScaleError, at: Duration) -> Outcome {
        if matches!(error, ScaleError::Conflict) {
            self.wish = staying(&self.replicas.borrow());
        }
        self.pause.last = (self.pause.last * 2).clamp(BACK_OFF.0, BACK_OFF.1);
        self.pause.until = Some(at + self.pause.last);
        Outcome::Failed(error.to_string().into())
    }

    fn foresee(&self, decision: &Decision) {
        let outlook = outlook(decision, self.wish, &self.clock);
        self.outlook.send_if_modified(|before| {
            let news = *before != outlook;
            *before = outlook;
            news
        });
    }

    fn tell(&self, entry: Entry) {
        let entry = Arc::new(entry);
        let Entry { decision, outcome } = &*entry;
        if self.log.push(Arc::clone(&entry)) && decision.from != decision.to {
            let sentence = crate::explain::sentence(decision);
            tracing::info!(model = %self.model, reason = decision.reason.as_str(), ?outcome, "{sentence}");
        }
    }
}

fn outlook(decision: &Decision, wish: u32, clock: &Clock) -> Outlook {
    let fleet = &decision.inputs.fleet;
    if fleet.ready > 0 {
        Outlook::Ready
    } else if wish == 0 {
        Outlook::Asleep
    } else if fleet.failed > 0 {
        Outlook::Failed { trouble: fleet.trouble.clone() }
    } else {
        Outlook::Starting { eta: fleet.first_ready.map(|at| clock.instant(at)) }
    }
}

/// Replicas that are not on their way out.
fn staying(replicas: &[Replica]) -> u32 {
    replicas.iter().filter(|replica| replica.phase != Phase::Draining).count() as u32
}

fn seen(replica: &Replica, clock: &Clock) -> ReplicaView {
    ReplicaView {
        id: Arc::clone(&replica.id),
        phase: replica.phase,
        created: clock.time(replica.created),
        ready_since: replica.ready_since.map(|at| clock.time(at)),
        restarts: replica.restarts,
        trouble: replica.trouble.clone(),
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
