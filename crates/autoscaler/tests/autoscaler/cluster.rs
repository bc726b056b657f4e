//! A scripted platform and scripted gateways around the real loop, with one record of everything that happens.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use autoscaler::{
    decide::Decision,
    fleet::{Fleet, Phase, Replica, ReplicaId, ScaleError, Target},
    policy::Policy,
    reconcile::{Clock, Ended, Handle, Outlook, Reconciler, Source},
    snapshot::{Counters, GatewayView, Gauges, ReplicaLoad, Report},
    state::State,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::world::{LEARNED, secs};

/// From the creation of a replica until it is ready.
pub(crate) const START: Duration = Duration::from_secs(2);

/// What was asked of the fleet and of the gateways, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    Scale(u32),
    Withdraw(Vec<String>, Quiet),
    Restore,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Quiet {
    Yes,
    No,
}

/// How the next write goes; without a script it is carried out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    Done,
    /// Carried out, and answered with an error.
    Lost,
    Unavailable,
    Conflict,
    Deposed,
    Hangs,
}

/// How the gateways take the next withdrawal; without a script they agree at once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    AgreeAfter(Duration),
    Refuse(&'static str),
    Never,
}

#[derive(Clone, Debug, Default)]
struct Record(Arc<Mutex<Vec<Event>>>);

impl Record {
    fn add(&self, event: Event) {
        self.0.lock().expect("no test panics with it").push(event);
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Platform {
    pub(crate) target: watch::Sender<Target>,
    replicas: watch::Sender<Arc<[Replica]>>,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    record: Record,
    born: Arc<AtomicU64>,
    tracker: TaskTracker,
}

impl Platform {
    /// The number is set, by Tidegate or `by` somebody else, and replicas come and go.
    pub(crate) fn set(&self, replicas: u32, by: Option<&str>) {
        self.target.send_modify(|target| {
            target.replicas = Some(replicas);
            target.foreign = by.map(Into::into);
        });
        self.resize(replicas as usize, &[]);
    }

    pub(crate) fn modify(&self, change: impl FnOnce(&mut Target)) {
        self.target.send_modify(change);
    }

    pub(crate) fn script(&self, replies: impl IntoIterator<Item = Reply>) {
        self.replies.lock().expect("no test panics with it").extend(replies);
    }

    /// From now on writes are carried out.
    pub(crate) fn replies_end(&self) {
        self.replies.lock().expect("no test panics with it").clear();
    }

    fn resize(&self, wanted: usize, victims: &[ReplicaId]) {
        let mut replicas = self.replicas.borrow().to_vec();
        while replicas.len() > wanted {
            let rank = |r: &Replica| {
                let victim = victims.iter().position(|id| *id == r.id).unwrap_or(usize::MAX);
                (r.phase == Phase::Ready, victim)
            };
            let first = replicas.iter().enumerate().min_by_key(|(_, r)| rank(r)).expect("there are some").0;
            replicas.remove(first);
        }
        while replicas.len() < wanted {
            replicas.push(self.newborn());
        }
        self.replicas.send_replace(replicas.into());
    }

    fn newborn(&self) -> Replica {
        let id: ReplicaId = format!("pod-{}", self.born.fetch_add(1, Ordering::Relaxed)).into();
        let (later, known) = (self.clone(), Arc::clone(&id));
        self.tracker.spawn(async move {
            sleep(START).await;
            later.becomes_ready(&known);
        });
        Replica {
            id,
            address: None,
            phase: Phase::Starting,
            created: Instant::now(),
            ready_since: None,
            restarts: 0,
            trouble: None,
            hold: self.tracker.token(),
        }
    }

    fn becomes_ready(&self, id: &ReplicaId) {
        let mut replicas = self.replicas.borrow().to_vec();
        for replica in replicas.iter_mut().filter(|r| r.id == *id) {
            replica.phase = Phase::Ready;
            replica.ready_since = Some(Instant::now());
        }
        self.replicas.send_replace(replicas.into());
    }
}

impl Fleet for Platform {
    fn replicas(&self) -> watch::Receiver<Arc<[Replica]>> {
        self.replicas.subscribe()
    }

    fn target(&self) -> watch::Receiver<Target> {
        self.target.subscribe()
    }

    async fn scale(&self, target: u32, victims: &[ReplicaId]) -> Result<(), ScaleError> {
        self.record.add(Event::Scale(target));
        let reply = self.replies.lock().expect("no test panics with it").pop_front();
        let apply = || {
            self.target.send_modify(|seen| {
                seen.replicas = Some(target);
                seen.foreign = None;
            });
            self.resize(target as usize, victims);
        };
        let unavailable = || Err(ScaleError::Unavailable("the API server is down".into()));
        match reply.unwrap_or(Reply::Done) {
            Reply::Done => {
                apply();
                Ok(())
            }
            Reply::Lost => {
                apply();
                unavailable()
            }
            Reply::Unavailable => unavailable(),
            Reply::Conflict => Err(ScaleError::Conflict),
            Reply::Deposed => Err(ScaleError::Deposed),
            Reply::Hangs => std::future::pending().await,
        }
    }
}

/// Gateways whose requests a test brings and takes away.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gateways {
    pub(crate) arrivals: Arc<AtomicU64>,
    pub(crate) queued: Arc<AtomicU64>,
    pub(crate) loads: Arc<Mutex<Vec<(&'static str, u32)>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    told: Arc<Mutex<Vec<(u32, Outlook)>>>,
    bell: Arc<Notify>,
    record: Record,
}

impl Gateways {
    /// Requests arrive that find no replica.
    pub(crate) fn arrive(&self, n: u64) {
        self.arrivals.fetch_add(n, Ordering::Relaxed);
        self.queued.fetch_add(n, Ordering::Relaxed);
        self.bell.notify_one();
    }

    pub(crate) fn served(&self) {
        self.queued.store(0, Ordering::Relaxed);
    }

    pub(crate) fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().expect("no test panics with it").extend(answers);
    }

    pub(crate) fn told(&self) -> Vec<(u32, Outlook)> {
        self.told.lock().expect("no test panics with it").clone()
    }
}

impl Source for Gateways {
    async fn wake(&self) {
        self.bell.notified().await;
    }

    fn gateways(&self, now: Duration) -> Vec<GatewayView> {
        let arrivals = self.arrivals.load(Ordering::Relaxed);
        let queued = self.queued.load(Ordering::Relaxed);
        let counters = Counters { arrivals, arrival_rows: arrivals, ..Counters::default() };
        let gauges = Gauges { queued_requests: queued, queued_rows: queued, ..Gauges::default() };
        let loads = self.loads.lock().expect("no test panics with it");
        let replicas = loads.iter().map(|(id, n)| ReplicaLoad { id: (*id).into(), in_flight: *n }).collect();
        let busy = Report { at: now, counters, gauges, latency: LEARNED, chat: None, replicas };
        let quiet = Report { at: now, latency: LEARNED, ..Report::default() };
        let view = |name: &str, report| GatewayView { name: name.into(), listed: true, report: Some(report) };
        vec![view("gateway-a", busy), view("gateway-b", quiet)]
    }

    async fn withdraw(&self, replicas: &[ReplicaId], quiet: bool) -> Result<(), Arc<str>> {
        let quiet = if quiet { Quiet::Yes } else { Quiet::No };
        self.record.add(Event::Withdraw(replicas.iter().map(ToString::to_string).collect(), quiet));
        let answer = self.answers.lock().expect("no test panics with it").pop_front();
        match answer {
            None => Ok(()),
            Some(Answer::AgreeAfter(time)) => {
                sleep(time).await;
                Ok(())
            }
            Some(Answer::Refuse(words)) => Err(words.into()),
            Some(Answer::Never) => std::future::pending().await,
        }
    }

    fn restore(&self) {
        self.record.add(Event::Restore);
    }

    fn tell(&self, decision: &Decision, outlook: &Outlook) {
        self.told.lock().expect("no test panics with it").push((decision.to, outlook.clone()));
    }
}

pub(crate) struct Cluster {
    pub(crate) platform: Platform,
    pub(crate) gateways: Gateways,
    pub(crate) handle: Handle,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<Ended>,
    _policy: watch::Sender<Arc<Policy>>,
}

impl Cluster {
    /// A leader begins where there are `replicas`, all ready, and nobody has been asked for anything.
    pub(crate) async fn start(policy: Policy, replicas: u32) -> Self {
        let record = Record::default();
        let platform = Platform {
            target: watch::Sender::new(Target::default()),
            replicas: watch::Sender::new(Arc::from([])),
            replies: Arc::default(),
            record: record.clone(),
            born: Arc::default(),
            tracker: TaskTracker::new(),
        };
        platform.set(replicas, Some("kubectl"));
        sleep(START).await;
        Self::lead(policy, platform, Gateways { record, ..Gateways::default() })
    }

    pub(crate) fn lead(policy: Policy, platform: Platform, gateways: Gateways) -> Self {
        let (sender, policy) = watch::channel(Arc::new(policy));
        let clock = Clock { start: Instant::now(), offset: secs(1_000_000) };
        let (fleet, source) = (platform.clone(), gateways.clone());
        let (reconciler, handle) =
            Reconciler::new("digits".into(), fleet, source, policy, clock, State::default());
        let stop = CancellationToken::new();
        let task = tokio::spawn(reconciler.run(stop.clone()));
        Self { platform, gateways, handle, stop, task, _policy: sender }
    }

    /// What happened since the last call, without what was told.
    pub(crate) fn events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.platform.record.0.lock().expect("no test panics with it"))
    }

    pub(crate) fn scales(&self) -> Vec<u32> {
        let writes = self.events().into_iter().filter_map(|event| match event {
            Event::Scale(n) => Some(n),
            _ => None,
        });
        writes.collect()
    }

    pub(crate) fn sentence(&self) -> String {
        autoscaler::explain::sentence(&self.latest().decision)
    }

    pub(crate) fn latest(&self) -> Arc<autoscaler::log::Entry> {
        self.handle.log.latest().expect("has decided")
    }

    pub(crate) fn wanted(&self) -> u32 {
        self.platform.target.borrow().replicas.expect("is known here")
    }

    pub(crate) async fn end(self) -> Ended {
        self.stop.cancel();
        self.task.await.expect("the loop does not panic")
    }
}
