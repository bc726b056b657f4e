//! The loop: observe → decide → actuate, each second and at once when a request finds no replica.

mod number;
mod observer;
mod sight;
mod withdrawal;

use std::{
    future::Future,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::{
    number::Number,
    observer::Observer,
    sight::{is_hindered, platform, seen, staying},
    withdrawal::{Terms, Withdrawal},
};
use crate::{
    decide::{Decision, Load, Reason, decide},
    fleet::{Fleet, Phase, Replica, ReplicaId, ScaleError, Target},
    log::{Entry, Log, Outcome},
    metrics::Metrics,
    observe::Observed,
    policy::{Mode, Policy},
    record::Recorder,
    snapshot::{FleetView, GatewayView, Snapshot},
    state::{Digest, State},
};

const TICK: Duration = Duration::from_secs(1);
/// Requests at zero and changes of the fleet that are followed at once within one tick; more wait for the tick.
const WAKES_PER_TICK: u8 = 10;
/// How long the first request at zero is alone before it is acted upon: those that come with it are then seen,
/// and one write serves them all.
const GATHER: Duration = Duration::from_millis(5);
/// Longest a write to the fleet may take, with the agreement of the gateways before it.
const WRITE: Duration = Duration::from_secs(10);
/// First and longest pause after a write that failed. Where it is known why none can succeed, the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Where signals come from.
pub trait Source: Send + Sync + 'static {
    /// Resolves when a request arrives and no replica is ready. May be dropped at any time.
    fn wake(&self) -> impl Future<Output = ()> + Send;

    /// Every gateway known, with its newest report; `now` is the time to put into a report taken here and now.
    fn gateways(&self, now: Duration) -> Vec<GatewayView>;

    /// Has every gateway send nothing more to `replicas`, and returns once each has agreed. With `quiet` they must
    /// also have nothing waiting or running: those replicas are the last ones. An error says in words why the
    /// replicas should stay; the gateways then go on as before, and nothing is to be restored. May be dropped at any
    /// time; [`restore`](Self::restore) then follows. By default nothing is needed: a fleet that drains its replicas
    /// itself.
    fn withdraw(
        &self,
        replicas: &[ReplicaId],
        quiet: bool,
    ) -> impl Future<Output = Result<(), Arc<str>>> + Send {
        let _ = (replicas, quiet);
        async { Ok(()) }
    }

    /// Takes the last withdrawal back, if it was agreed to or is not ended yet: its replicas stay.
    fn restore(&self) {}

    /// Tells the gateways what was decided and what to expect.
    fn tell(&self, decision: &Decision, outlook: &Outlook) {
        let _ = (decision, outlook);
    }
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
    /// None is to be started now: a schedule allows none, and calls do not wake.
    Off {
        until: Option<Instant>,
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

    /// What was learned, in little room, for [`State::from_digest`] in another process.
    #[must_use]
    pub fn digest(&self) -> Digest {
        lock(&self.state).digest()
    }
}

/// Why a loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// The fleet has refused a write because this process does not lead any more. Whoever leads runs a loop of
    /// its own; when that is this process again, it needs a new one.
    Deposed,
}

/// The loop of one model.
#[derive(Debug)]
pub struct Reconciler<F, S> {
    fleet: F,
    source: S,
    policy: watch::Receiver<Arc<Policy>>,
    clock: Clock,
    replicas: watch::Receiver<Arc<[Replica]>>,
    target: watch::Receiver<Target>,
    state: Arc<Mutex<State>>,
    log: Log,
    outlook: watch::Sender<Outlook>,
    metrics: Metrics,
    model: Arc<str>,
    number: Number,
    /// While the model is only observed.
    observer: Option<Observer>,
    /// The target as the present decision saw it.
    seen: Target,
    pause: Pause,
    kept: Option<Kept>,
    recorder: Option<Recorder>,
}

/// The time in which the fleet is left alone after it refused.
#[derive(Debug, Default)]
struct Pause {
    until: Option<Duration>,
    last: Duration,
}

/// Why replicas could not be spared, and until when they are not asked for again: the gateways would otherwise
/// withdraw and restore them for ever.
#[derive(Debug)]
struct Kept {
    words: Arc<str>,
    until: Duration,
    pause: Duration,
}

/// Why a smaller wish was not written.
#[derive(Debug)]
enum Unshrunk {
    Kept(Arc<str>),
    Refused(ScaleError),
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
        let (replicas, target) = (fleet.replicas(), fleet.target());
        let seen = target.borrow().clone();
        let number = Number::new(&seen, staying(&replicas.borrow()));
        let (outlook, outlook_seen) = watch::channel(Outlook::default());
        let state = Arc::new(Mutex::new(state));
        let log = Log::default();
        let handle = Handle { log: log.clone(), outlook: outlook_seen, state: Arc::clone(&state) };
        let metrics = Metrics::new(&model);
        let this = Self {
            fleet,
            source,
            policy,
            clock,
            replicas,
            target,
            state,
            log,
            outlook,
            metrics,
            model,
            number,
            observer: None,
            seen,
            pause: Pause::default(),
            kept: None,
            recorder: None,
        };
        (this, handle)
    }

    /// The same, with each of its decisions and what it was made from on record.
    #[must_use]
    pub fn recorded(self, recorder: Recorder) -> Self {
        Self { recorder: Some(recorder), ..self }
    }

    /// Runs until `stop`, or until this process does not lead any more. The replicas are left as they are.
    pub async fn run(mut self, stop: CancellationToken) -> Ended {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut fleet, mut target) = (self.replicas.clone(), self.target.clone());
        let mut wakes = WAKES_PER_TICK;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ended::Stopped,
                _ = tick.tick() => wakes = WAKES_PER_TICK,
                () = self.woken(), if wakes > 0 && self.listens() => wakes -= 1,
                Ok(()) = fleet.changed(), if wakes > 0 => wakes -= 1,
                Ok(()) = target.changed(), if wakes > 0 => wakes -= 1,
            }
            match stop.run_until_cancelled(self.step()).await {
                None => return Ended::Stopped,
                Some(ControlFlow::Break(ended)) => return ended,
                Some(ControlFlow::Continue(())) => {}
            }
        }
    }

    /// Whether a request that finds no replica should be acted upon before the next tick.
    fn listens(&self) -> bool {
        self.number.wish() == 0 && self.pause.until.is_none_or(|until| self.clock.now() >= until)
    }

    async fn woken(&self) {
        self.source.wake().await;
        tokio::time::sleep(GATHER).await;
    }

    async fn step(&mut self) -> ControlFlow<Ended> {
        let now = self.clock.now();
        let policy = Arc::clone(&self.policy.borrow());
        let snapshot = self.look(now);
        let before = self.remembered(now);
        let decision = self.decide(&policy, &snapshot, now);
        let observed = self.observe(&policy, &snapshot, now);
        let mut entry = Entry { decision, outcome: Outcome::Unchanged, observed };
        let result = match entry.observed {
            Some(_) => Ok(self.unwritten(&entry)),
            None => self.actuate(&entry.decision, &snapshot).await,
        };
        let deposed = matches!(result, Err(ScaleError::Deposed));
        entry.outcome = result.unwrap_or_else(|error| self.refused(&error, &entry.decision));
        self.metrics.decided(&entry);
        if !deposed {
            self.foresee(&entry.decision);
        }
        let entry = self.note(entry);
        if let Some(recorder) = &mut self.recorder {
            recorder.take(&policy, before, snapshot, &entry);
        }
        if deposed { ControlFlow::Break(Ended::Deposed) } else { ControlFlow::Continue(()) }
    }

    /// The memory as it is, where the record wants it.
    fn remembered(&self, now: Duration) -> Option<State> {
        let wanted = self.recorder.as_ref().is_some_and(|recorder| recorder.wants_state(now));
        wanted.then(|| lock(&self.state).clone())
    }

    fn look(&mut self, now: Duration) -> Snapshot {
        let target = self.target.borrow_and_update().clone();
        let changed_by = self.number.follow(&target, Instant::now());
        if is_hindered(&self.seen) && !is_hindered(&target) {
            // What was decided meanwhile may be written at once.
            self.pause = Pause::default();
        }
        let platform = platform(&target, changed_by, now, &self.clock);
        self.seen = target;
        let replicas = self.replicas.borrow().iter().map(|r| seen(r, &self.clock)).collect();
        let fleet = FleetView { wanted: self.number.wish(), replicas, platform };
        Snapshot { gateways: self.source.gateways(now), fleet }
    }

    fn decide(&self, policy: &Policy, snapshot: &Snapshot, now: Duration) -> Decision {
        let mut state = lock(&self.state);
        self.metrics.started(&state.observe(policy, snapshot, now));
        let decision = decide(policy, &state, snapshot, now);
        state.commit(&decision);
        decision
    }

    /// What would be done where nothing is to be written.
    fn observe(&mut self, policy: &Policy, snapshot: &Snapshot, now: Duration) -> Option<Arc<Observed>> {
        if policy.mode != Mode::Observe {
            self.observer = None;
            return None;
        }
        let state = lock(&self.state);
        let observer = self.observer.get_or_insert_with(|| Observer::new(&self.model, &state, snapshot, now));
        Some(Arc::new(observer.follow(policy, &state, snapshot, now)))
    }

    fn unwritten(&mut self, entry: &Entry) -> Outcome {
        self.kept = None;
        if entry.told().to == self.number.wish() { Outcome::Unchanged } else { Outcome::Observed }
    }

    async fn actuate(&mut self, decision: &Decision, snapshot: &Snapshot) -> Result<Outcome, ScaleError> {
        let (to, wish) = (decision.to, self.number.wish());
        if to >= wish {
            self.kept = None;
        }
        if let Some(outcome) = self.rest(decision) {
            return Ok(outcome);
        }
        if to > wish {
            self.write(to, &[], Instant::now() + WRITE).await?;
            return Ok(self.written(to));
        }
        match self.shrink(decision, snapshot).await {
            Ok(()) => Ok(self.written(to)),
            Err(Unshrunk::Kept(words)) => Ok(self.keep(words)),
            Err(Unshrunk::Refused(error)) => Err(error),
        }
    }

    /// Why nothing is written, if nothing is to be.
    fn rest(&self, decision: &Decision) -> Option<Outcome> {
        if let Some(rival) = &self.seen.rival {
            return Some(Outcome::ConflictingAutoscaler(Arc::clone(rival)));
        }
        if decision.to == self.number.wish() {
            return Some(Outcome::Unchanged);
        }
        if self.seen.replicas.is_none() && self.seen.unheard_since.is_some() {
            return Some(Outcome::Kept("it is not known yet how many are asked for".into()));
        }
        if let Some(until) = self.pause.until.filter(|until| decision.at < *until) {
            return Some(Outcome::BackingOff(until));
        }
        let kept = self.kept.as_ref().filter(|kept| self.clock.now() < kept.until)?;
        Some(Outcome::Kept(Arc::clone(&kept.words)))
    }

    /// Writes a smaller wish once no gateway uses the replicas that go. If it comes to nothing they are restored.
    async fn shrink(&self, decision: &Decision, snapshot: &Snapshot) -> Result<(), Unshrunk> {
        let to = decision.to;
        let until = Instant::now() + WRITE;
        let leaving = snapshot.leaving(to);
        let mut withdrawal = None;
        if to == 0 || !leaving.is_empty() {
            let agreed = Withdrawal::agree(&self.source, &leaving, Terms::of(decision)).await;
            withdrawal = Some(agreed.map_err(Unshrunk::Kept)?);
            self.still_fits(to, leaving.len())?;
        }
        self.write(to, &snapshot.victims(), until).await.map_err(Unshrunk::Refused)?;
        if let Some(withdrawal) = withdrawal {
            withdrawal.fulfilled();
        }
        Ok(())
    }

    /// Whether, after the gateways have agreed, `to` replicas still means that no more than `withdrawn` ready ones
    /// go, and nobody else had a hand in it.
    fn still_fits(&self, to: u32, withdrawn: usize) -> Result<(), Unshrunk> {
        let replicas = self.replicas.borrow();
        let unready = replicas.iter().filter(|r| matches!(r.phase, Phase::Pending | Phase::Starting)).count();
        let going = staying(&replicas).saturating_sub(to) as usize;
        if going.saturating_sub(unready) > withdrawn {
            return Err(Unshrunk::Kept("a replica has become ready meanwhile".into()));
        }
        if *self.target.borrow() != self.seen {
            return Err(Unshrunk::Kept("the platform has news".into()));
        }
        Ok(())
    }

    async fn write(&self, to: u32, victims: &[ReplicaId], until: Instant) -> Result<(), ScaleError> {
        let late = |_| ScaleError::Unavailable("it did not answer in time".into());
        timeout_at(until, self.fleet.scale(to, victims)).await.map_err(late)?
    }

    fn written(&mut self, wish: u32) -> Outcome {
        self.number.written(wish, Instant::now());
        self.pause = Pause::default();
        self.kept = None;
        Outcome::Applied
    }

    /// The replicas stay. They are asked for again at the next decision, and then at growing intervals.
    fn keep(&mut self, words: Arc<str>) -> Outcome {
        let pause = match &self.kept {
            None => Duration::ZERO,
            Some(kept) => (kept.pause * 2).clamp(BACK_OFF.0, BACK_OFF.1),
        };
        let until = self.clock.now() + pause;
        self.kept = Some(Kept { words: Arc::clone(&words), until, pause });
        Outcome::Kept(words)
    }

    /// The fleet is left alone for a while; what is then written is what is then decided.
    fn refused(&mut self, error: &ScaleError, decision: &Decision) -> Outcome {
        match error {
            ScaleError::Conflict => self.number.corrected(staying(&self.replicas.borrow())),
            ScaleError::Unavailable(_) => self.number.lost(decision.to, Instant::now()),
            ScaleError::Fixed | ScaleError::Deposed => {}
        }
        let hopeless = self.seen.trouble.is_some();
        let pause = if hopeless { BACK_OFF.1 } else { self.pause.last * 2 };
        self.pause.last = pause.clamp(BACK_OFF.0, BACK_OFF.1);
        self.pause.until = Some(decision.at + self.pause.last);
        Outcome::Failed(error.to_string().into())
    }

    fn foresee(&self, decision: &Decision) {
        let outlook = match self.refuses(decision) {
            Some(until) => Outlook::Off { until: until.map(|at| self.clock.instant(at)) },
            None => outlook(decision, self.number.wish(), &self.clock),
        };
        self.source.tell(decision, &outlook);
        self.outlook.send_if_modified(|before| {
            let news = *before != outlook;
            *before = outlook;
            news
        });
    }

    /// Until when a schedule has calls refused; the inner `None`: longer than is known. What was admitted before
    /// and waits for a replica that starts is waited for, and where others set the number they are not gainsaid.
    fn refuses(&self, decision: &Decision) -> Option<Option<Duration>> {
        let cap = decision.schedule.as_ref()?.refuses()?;
        let others = self.seen.rival.is_some() || (decision.reason == Reason::Override && decision.to > 0);
        if others || self.policy.borrow().mode == Mode::Observe {
            return None;
        }
        let Load { oldest, .. } = decision.inputs.load;
        let starting = decision.inputs.fleet.ready == 0 && self.number.wish() > 0;
        let awaited = starting && cap.is_younger_than(oldest, decision.at);
        (!awaited).then_some(cap.until)
    }

    fn note(&self, entry: Entry) -> Arc<Entry> {
        let entry = Arc::new(entry);
        let (decision, outcome) = (entry.told(), &entry.outcome);
        let moved = decision.from != decision.to || decision.inputs.platform.changed_by.is_some();
        if self.log.push(Arc::clone(&entry)) && moved {
            let sentence = crate::explain::sentence(decision);
            tracing::info!(model = %self.model, reason = decision.reason.as_str(), ?outcome, "{sentence}");
        }
        entry
    }
}

fn outlook(decision: &Decision, wish: u32, clock: &Clock) -> Outlook {
    let fleet = &decision.inputs.fleet;
    if fleet.ready > 0 {
        Outlook::Ready
    } else if let Some(trouble) = &decision.inputs.platform.trouble {
        Outlook::Failed { trouble: Some(Arc::clone(trouble)) }
    } else if wish == 0 {
        Outlook::Asleep
    } else if fleet.failed > 0 {
        Outlook::Failed { trouble: fleet.trouble.clone() }
    } else {
        Outlook::Starting { eta: fleet.first_ready.map(|at| clock.instant(at)) }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
