//! The loop over a fleet that keeps count of what is asked of it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use autoscaler::{
    fleet::{Fleet, Phase, Replica, ReplicaId, ScaleError},
    log::{NotKept, Outcome},
    policy::{IdleAfter, Mode, Policy},
    reconcile::{Clock, Ended, Handle, Outlook, Reconciler, Source},
    record::Recorder,
    schedule::{self, OnRequest, Schedule},
    snapshot::{Counters, GatewayView, Gauges, Report},
    state::State,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::world::{LEARNED, policy, secs};

/// A fleet whose replicas are ready two seconds after they were asked for.
#[derive(Clone)]
pub(crate) struct Ranch {
    replicas: watch::Sender<Arc<[Replica]>>,
    writes: Arc<Mutex<Vec<u32>>>,
    broken: Arc<AtomicBool>,
    crashes: Arc<AtomicBool>,
    tracker: TaskTracker,
}

impl Ranch {
    fn new() -> Self {
        let (replicas, _) = watch::channel(Arc::from([]));
        let (broken, crashes) = (Arc::default(), Arc::default());
        Self { replicas, writes: Arc::default(), broken, crashes, tracker: TaskTracker::new() }
    }

    fn writes(&self) -> Vec<u32> {
        self.writes.lock().expect("no test panics with it").clone()
    }

    fn replica(&self, id: usize) -> Replica {
        Replica {
            id: format!("r{id}").into(),
            address: None,
            phase: Phase::Starting,
            created: Instant::now(),
            ready_since: None,
            restarts: 0,
            trouble: None,
            hold: self.tracker.token(),
        }
    }

    fn resize(&self, target: usize) {
        let mut replicas = self.replicas.borrow().to_vec();
        replicas.truncate(target);
        (replicas.len()..target).for_each(|id| replicas.push(self.replica(id)));
        self.replicas.send_replace(replicas.into());
    }

    fn settle(&self) {
        let mut replicas = self.replicas.borrow().to_vec();
        for replica in replicas.iter_mut().filter(|r| r.phase != Phase::Ready) {
            if self.crashes.load(Ordering::Relaxed) {
                replica.restarts = 3;
                replica.trouble = Some("exited with status 1".into());
            } else {
                replica.phase = Phase::Ready;
                replica.ready_since = Some(Instant::now());
            }
        }
        self.replicas.send_replace(replicas.into());
    }
}

impl Fleet for Ranch {
    fn replicas(&self) -> watch::Receiver<Arc<[Replica]>> {
        self.replicas.subscribe()
    }

    async fn scale(&self, target: u32, _victims: &[ReplicaId]) -> Result<(), ScaleError> {
        self.writes.lock().expect("no test panics with it").push(target);
        if self.broken.load(Ordering::Relaxed) {
            return Err(ScaleError::Unavailable("the API server is down".into()));
        }
        self.resize(target as usize);
        let later = self.clone();
        self.tracker.spawn(async move {
            sleep(secs(2)).await;
            later.settle();
        });
        Ok(())
    }
}

/// One gateway with a queue that a test fills and empties.
#[derive(Clone, Default)]
pub(crate) struct Counter {
    arrivals: Arc<AtomicU64>,
    pub(crate) queued: Arc<AtomicU64>,
    bell: Arc<Notify>,
}

impl Counter {
    pub(crate) fn arrive(&self, n: u64) {
        self.arrivals.fetch_add(n, Ordering::Relaxed);
        self.queued.fetch_add(n, Ordering::Relaxed);
        (0..n).for_each(|_| self.bell.notify_one());
    }
}

impl Source for Counter {
    async fn wake(&self) {
        self.bell.notified().await;
    }

    fn gateways(&self, now: Duration) -> Vec<GatewayView> {
        let arrivals = self.arrivals.load(Ordering::Relaxed);
        let queued = self.queued.load(Ordering::Relaxed);
        let counters = Counters { arrivals, arrival_rows: arrivals, ..Counters::default() };
        let gauges = Gauges { queued_requests: queued, queued_rows: queued, ..Gauges::default() };
        let report = Report { at: now, counters, gauges, latency: LEARNED, chat: None, replicas: vec![] };
        vec![GatewayView { name: "here".into(), listed: true, report: Some(report) }]
    }
}

pub(crate) struct Loop {
    ranch: Ranch,
    pub(crate) gateway: Counter,
    handle: Handle,
    stop: CancellationToken,
    task: JoinHandle<Ended>,
    _policy: watch::Sender<Arc<Policy>>,
}

fn start(policy: Policy) -> Loop {
    start_with(policy, |reconciler| reconciler)
}

/// As [`start`], recorded by `recorder`.
pub(crate) fn start_on_record(policy: Policy, recorder: Recorder) -> Loop {
    start_with(policy, |reconciler| reconciler.recorded(recorder))
}

fn start_with(
    policy: Policy,
    with: impl FnOnce(Reconciler<Ranch, Counter>) -> Reconciler<Ranch, Counter>,
) -> Loop {
    let (ranch, gateway, stop) = (Ranch::new(), Counter::default(), CancellationToken::new());
    let (sender, receiver) = watch::channel(Arc::new(policy));
    let clock = Clock { start: Instant::now(), offset: secs(1_000_000) };
    let (reconciler, handle) =
        Reconciler::new("m".into(), ranch.clone(), gateway.clone(), receiver, clock, State::default());
    let task = tokio::spawn(with(reconciler).run(stop.clone()));
    Loop { ranch, gateway, handle, stop, task, _policy: sender }
}

impl Loop {
    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("the loop does not panic");
        self.ranch.tracker.close();
        self.ranch.replicas.send_replace(Arc::from([]));
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_callers_at_zero_cause_one_write() {
    let it = start(policy(0, 4));
    sleep(Duration::from_millis(2_300)).await;
    it.gateway.arrive(10_000);
    let asked = Instant::now();
    while it.ranch.writes().is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(asked.elapsed() <= Duration::from_millis(20), "{:?}", asked.elapsed());
    sleep(secs(10)).await;
    assert_eq!(it.ranch.writes(), [4]);
    assert_eq!(*it.handle.outlook.borrow(), Outlook::Ready);
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_model_falls_to_zero_and_wakes_again() {
    let mut policy = policy(0, 4);
    policy.idle_after = IdleAfter::Fixed(secs(30));
    let it = start(policy);
    sleep(secs(2)).await;
    it.gateway.arrive(1);
    sleep(secs(5)).await;
    it.gateway.queued.store(0, Ordering::Relaxed);
    sleep(secs(40)).await;
    assert_eq!(it.ranch.writes(), [1, 0]);
    assert_eq!(*it.handle.outlook.borrow(), Outlook::Asleep);
    it.gateway.arrive(1);
    sleep(Duration::from_millis(50)).await;
    assert_eq!(it.ranch.writes(), [1, 0, 1]);
    let Outlook::Starting { eta: Some(eta) } = it.handle.outlook.borrow().clone() else {
        panic!("a start was measured before");
    };
    assert!(eta.duration_since(Instant::now()) <= secs(2));
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_refuses_is_asked_again_with_growing_pauses_and_the_log_says_so() {
    let it = start(policy(0, 4));
    it.ranch.broken.store(true, Ordering::Relaxed);
    sleep(secs(2)).await;
    it.gateway.arrive(50);
    sleep(secs(60)).await;
    let tries = it.ranch.writes().len();
    assert!((4..=8).contains(&tries), "{tries}");
    let told = it.handle.log.recent(10);
    let failed = Outcome::Failed("the API server is down".into());
    assert!(told.iter().any(|entry| entry.outcome == failed), "{told:?}");
    it.ranch.broken.store(false, Ordering::Relaxed);
    sleep(secs(35)).await;
    assert_eq!(it.ranch.replicas.borrow().len(), 1);
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn observing_changes_nothing_and_tells_what_it_would_do() {
    let mut policy = policy(0, 4);
    policy.mode = Mode::Observe;
    let it = start(policy);
    sleep(secs(2)).await;
    it.gateway.arrive(1);
    sleep(secs(5)).await;
    assert!(it.ranch.writes().is_empty());
    let latest = it.handle.log.latest().expect("has decided");
    assert_eq!((latest.decision.to, &latest.outcome), (1, &Outcome::Observed));
    let observed = latest.observed.as_ref().expect("it is observed");
    assert_eq!((observed.actual, observed.decision.to, latest.told()), (0, 1, &observed.decision));
    assert_eq!(observed.totals.arrivals, 1.0);
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_does_not_start_is_told_to_those_who_wait() {
    let it = start(policy(0, 4));
    it.ranch.crashes.store(true, Ordering::Relaxed);
    sleep(secs(2)).await;
    it.gateway.arrive(1);
    sleep(secs(4)).await;
    let trouble = Some("exited with status 1".into());
    assert_eq!(*it.handle.outlook.borrow(), Outlook::Failed { trouble });
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_log_keeps_what_changed_and_answers_for_the_past() {
    let it = start(policy(0, 4));
    sleep(secs(60)).await;
    assert_eq!(it.handle.log.recent(100).len(), 1, "a minute of nothing is told once");
    it.gateway.arrive(1);
    sleep(secs(1)).await;
    let woke = it.handle.log.recent(100).into_iter().find(|e| e.decision.from == 0 && e.decision.to == 1);
    let at = woke.expect("woke").decision.at;
    let before =
        it.handle.log.stood_at(at - Duration::from_millis(1)).expect("the log goes back that far").entry;
    assert_eq!(before.decision.to, 0);
    assert!(matches!(it.handle.log.stood_at(secs(10)), Err(NotKept::Earlier { .. })), "before the log began");
    let restored = State::from_json(&it.handle.saved(), at + secs(60));
    assert!(restored.is_ok());
    it.end().await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_a_schedule_refuses_are_told_until_when_and_wake_nobody() {
    // The clock starts at 13:46:40 on a Monday.
    let repairs = Schedule {
        name: "repairs".into(),
        timezone: jiff::tz::TimeZone::UTC,
        days: vec![jiff::civil::Weekday::Monday],
        from: 13 * 60 + 47,
        to: 13 * 60 + 50,
        bounds: schedule::Bounds::Exactly(0),
        on_request: OnRequest::Reject,
        prewarm: None,
    };
    for (mode, refuses) in [(Mode::Enforce, true), (Mode::Observe, false)] {
        let (it, began) =
            (start(Policy { schedules: vec![repairs.clone()], mode, ..policy(0, 4) }), Instant::now());
        sleep(secs(19)).await;
        assert_eq!(*it.handle.outlook.borrow(), Outlook::Asleep);
        sleep(secs(2)).await;
        let off = Outlook::Off { until: Some(began + secs(200)) };
        assert_eq!(*it.handle.outlook.borrow() == off, refuses, "{mode:?}");
        it.gateway.arrivals.fetch_add(3, Ordering::Relaxed);
        it.gateway.bell.notify_one();
        sleep(secs(178)).await;
        assert_eq!((*it.handle.outlook.borrow() == off, it.ranch.writes()), (refuses, vec![]), "{mode:?}");
        sleep(secs(2)).await;
        assert_eq!(*it.handle.outlook.borrow(), Outlook::Asleep);
        it.end().await;
    }
}
