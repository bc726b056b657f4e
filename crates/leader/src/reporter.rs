//! The gateway's side: one call to whoever leads, in which this gateway reports and is told.
//!
//! Without a leader everything goes on: directives stay as they are, except that replicas are withdrawn for 15
//! seconds at most without its word. Who leads is for others to find out; a change is followed at once.

mod call;
mod model;
mod pause;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use autoscaler::{fleet::ReplicaId, reconcile::Outlook, snapshot::Report};
use futures_util::future::BoxFuture;
use proto::signals;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Channel, Endpoint};

pub use self::model::ModelHandle;
use self::{
    call::{Call, Ended},
    model::Model,
    pause::Pause,
};
use crate::wire;

/// How often withdrawals and wakes are looked at when nobody is heard.
const AGED_EVERY: Duration = Duration::from_secs(1);
/// A leader with an older epoch than the newest heard is not believed for this long. After that the older epoch may
/// be that of a Lease that was made anew.
const EPOCH_STANDS: Duration = Duration::from_secs(30);
/// A call that was shorter than this does not show that the next attempt may come at once.
const LASTING: Duration = Duration::from_secs(2);

/// Takes the report of one model as of now; its time does not matter.
pub type TakeReport = Arc<dyn Fn() -> Report + Send + Sync>;
/// Where the leader is called, as `host:port`; `None`: nobody leads.
pub type Leaders = watch::Receiver<Option<Arc<str>>>;
/// How connections to a leader are made.
pub type Connect =
    Arc<dyn Fn(Endpoint) -> BoxFuture<'static, Result<Channel, tonic::transport::Error>> + Send + Sync>;

/// How this gateway is known to its leader.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name that discovery knows it by: its pod's.
    pub gateway: Arc<str>,
    pub version: Arc<str>,
}

/// What the leader has said of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Directive {
    pub desired: u32,
    /// What a request that finds no replica may expect.
    pub outlook: Outlook,
    pub withdrawal: Withdrawal,
    /// The decision that stands, in words.
    pub why: Arc<str>,
    /// Who said so.
    pub leader: Arc<str>,
    pub epoch: u64,
}

/// Replicas that nothing more is to be sent to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withdrawal {
    /// For [`ModelHandle::carried_out`]; 0 where there is none.
    pub number: u64,
    pub replicas: Arc<[ReplicaId]>,
}

/// Reports to whoever leads, for as long as a clone of this lives.
#[derive(Clone, Debug)]
pub struct Reporter {
    shared: Arc<Shared>,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl Reporter {
    /// Starts to report over TCP. Must be called inside a runtime.
    #[must_use]
    pub fn start(config: Config, leaders: Leaders) -> Self {
        let connect: Connect = Arc::new(|endpoint| Box::pin(async move { endpoint.connect().await }));
        Self::start_over(config, leaders, connect)
    }

    /// Starts to report over connections that `connect` makes. Must be called inside a runtime.
    #[must_use]
    pub fn start_over(config: Config, leaders: Leaders, connect: Connect) -> Self {
        let shared = Arc::new(Shared::new(config));
        let task = Arc::clone(&shared).run(leaders, connect);
        Self { shared, _task: Arc::new(AbortOnDropHandle::new(tokio::spawn(task))) }
    }

    /// Reports `model` until the handle is dropped. A second handle of the same model replaces the first.
    #[must_use]
    pub fn model(&self, model: Arc<str>, report: TakeReport) -> ModelHandle {
        ModelHandle::register(Arc::clone(&self.shared), model, report)
    }

    /// Whether a leader is heard.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.shared.connected.subscribe()
    }
}

/// What the calls, one after the other, and the handles share.
struct Shared {
    config: Config,
    book: Mutex<Book>,
    news: Notify,
    connected: watch::Sender<bool>,
}

#[derive(Default)]
struct Book {
    models: BTreeMap<Arc<str>, Arc<Model>>,
    /// Models of which there is news.
    fresh: BTreeSet<Arc<str>>,
    /// The last registration.
    id: u64,
    /// The newest epoch, and when its leader was last heard.
    epoch: Option<(u64, Instant)>,
}

impl Shared {
    fn new(config: Config) -> Self {
        let (connected, _) = watch::channel(false);
        Self { config, book: Mutex::default(), news: Notify::new(), connected }
    }

    async fn run(self: Arc<Self>, leaders: Leaders, connect: Connect) {
        tokio::join!(self.follow(leaders, connect), self.age());
    }

    /// Calls whoever leads, again and again.
    async fn follow(&self, mut leaders: Leaders, connect: Connect) {
        let mut pause = Pause::default();
        loop {
            let Some(leader) = leaders.borrow_and_update().clone() else {
                another(&mut leaders, None).await;
                continue;
            };
            tokio::select! {
                ended = self.call(&leader, &connect, &mut pause) => pause.note(&leader, &ended),
                () = another(&mut leaders, Some(&leader)) => {
                    pause = Pause::default();
                    continue;
                }
            }
            tokio::select! {
                () = sleep(pause.next()) => {}
                () = another(&mut leaders, Some(&leader)) => pause = Pause::default(),
            }
        }
    }

    /// One call, until it ends.
    async fn call(&self, leader: &str, connect: &Connect, pause: &mut Pause) -> Ended {
        let call = match Call::begin(self, leader, connect).await {
            Ok(call) => call,
            Err(ended) => return ended,
        };
        let began = Instant::now();
        pause.connected(leader);
        let ended = call.talk().await;
        if began.elapsed() >= LASTING {
            pause.reset();
        }
        ended
    }

    /// Lets what was said grow old.
    async fn age(&self) {
        let mut tick = interval(AGED_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.all().iter().for_each(|model| model.age());
        }
    }

    /// Notes that there is news of `model`.
    fn news(&self, model: &Arc<str>) {
        self.book().fresh.insert(Arc::clone(model));
        self.news.notify_one();
    }

    /// The reports of every model.
    fn every_report(&self) -> Vec<signals::ModelReport> {
        self.book().fresh.clear();
        self.all().iter().filter_map(|model| model.report()).collect()
    }

    /// The reports of those models of which there is news.
    fn fresh_reports(&self) -> Vec<signals::ModelReport> {
        let models: Vec<_> = {
            let mut book = self.book();
            let fresh = std::mem::take(&mut book.fresh);
            fresh.iter().filter_map(|name| book.models.get(name).cloned()).collect()
        };
        models.iter().filter_map(|model| model.report()).collect()
    }

    /// Whether a leader of `epoch` is to be believed. If so, nobody with an older one is from now on.
    fn believes(&self, epoch: u64) -> Result<(), u64> {
        let mut book = self.book();
        let stands = |at: Instant| at.elapsed() < EPOCH_STANDS;
        match book.epoch {
            Some((newest, at)) if newest > epoch && stands(at) => Err(newest),
            _ => {
                book.epoch = Some((epoch, Instant::now()));
                Ok(())
            }
        }
    }

    fn hear(&self, directives: signals::Directives, leader: &Arc<str>, epoch: u64) {
        self.book().epoch = Some((epoch, Instant::now()));
        for directive in directives.models.into_iter().take(wire::MODELS_MAX) {
            if let Some(model) = self.known(&directive.model) {
                model.hear(directive, leader, epoch);
            }
        }
        for name in directives.gone.iter().take(wire::MODELS_MAX) {
            let mut book = self.book();
            let Some(model) = book.models.get(&**name) else { continue };
            model.forget();
            if !model.is_registered() {
                book.models.remove(&**name);
            }
        }
    }

    /// The model of that name, to be told of before it is reported; `None` if there are too many of those.
    fn known(&self, name: &str) -> Option<Arc<Model>> {
        let mut book = self.book();
        if let Some(model) = book.models.get(name) {
            return Some(Arc::clone(model));
        }
        if book.models.len() >= wire::MODELS_MAX || !wire::is_name(name) {
            return None;
        }
        let model = Arc::new(Model::new(self.connected.subscribe()));
        book.models.insert(name.into(), Arc::clone(&model));
        Some(model)
    }

    /// The leader is not heard any more.
    fn lose(&self) {
        self.connected.send_replace(false);
        let last = self.book().epoch.map_or_else(Instant::now, |(_, at)| at);
        self.all().iter().for_each(|model| model.lose(last));
    }

    fn all(&self) -> Vec<Arc<Model>> {
        self.book().models.values().map(Arc::clone).collect()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Resolves when somebody other than `leader` leads, or nobody.
async fn another(leaders: &mut Leaders, leader: Option<&Arc<str>>) {
    if leaders.wait_for(|now| now.as_ref() != leader).await.is_err() {
        // Nobody looks for the leader any more: it stays who it is.
        std::future::pending::<()>().await;
    }
}
