//! One served model: its fleet, its pipeline, and the loop that scales it, wired together.

use std::{
    env,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use autoscaler::{
    fleet::{Fleet as _, Phase, Replica},
    policy::{Assumed, Bounds, IdleAfter, Mode, Policy, Slo},
    reconcile::{Clock, Handle, Outlook, Reconciler},
    state::State,
};
use fleet::{
    AnyFleet, ProcessFleet, StaticFleet,
    probe::{Probe, ProbeError},
    process, static_addresses,
};
use futures_util::{Stream, stream};
use gateway::{
    Deadlines, Parts, Readiness,
    upstream::{self, Endpoint, Follower},
};
use pipeline::{Concurrency, Pipeline, Rejection, replica};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tower::{ServiceExt as _, util::BoxCloneSyncService};

use super::source::{Asked, LocalSource};
use crate::{
    admin::History,
    config::{self, Fleet, Protocol},
};

/// How long a model that was replaced goes on for calls that came before, and how often it looks for them.
const STRAGGLERS: Duration = Duration::from_secs(30);
const STRAGGLERS_LOOK: Duration = Duration::from_millis(50);
/// How long a child process is believed to take until it is ready, before some starts were measured.
const PROCESS_START: Duration = Duration::from_secs(10);
/// When clients of a model whose fixed addresses are all down should try again.
const DOWN_RETRY: Duration = Duration::from_secs(2);
/// How long fixed addresses may take to show themselves before requests are refused for want of one.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// What may be read of a served model.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) config: config::Model,
    pub(crate) pipeline: Pipeline,
    pub(crate) replicas: watch::Receiver<Arc<[Replica]>>,
    /// `None` where nothing is scaled.
    pub(crate) scaling: Option<Handle>,
    pub(crate) clock: Clock,
    pub(crate) history: Mutex<History>,
}

/// A served model and the means to end it.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) view: Arc<View>,
    parts: Parts,
    fleet: AnyFleet,
    /// Ends the loop that scales, before the rest: a successor scales the same replicas.
    stop_scaling: CancellationToken,
    /// Ends every task, also of a model that never came into service.
    stop: DropGuard,
    tasks: TaskTracker,
}

/// What is left of a model when it stops being served as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replicas {
    /// Another configuration goes on with them.
    Keep,
    Stop,
}

impl Served {
    /// Starts a model at as many replicas as its configuration demands.
    pub(super) fn start(config: config::Model, clock: Clock) -> anyhow::Result<Self> {
        let fleet = start_fleet(&config).with_context(|| format!("model {}", config.name))?;
        Ok(Self::over(config, fleet, clock, State::default()))
    }

    /// The same replicas, served by another configuration.
    pub(super) fn with(&self, config: config::Model) -> Self {
        let clock = self.view.clock;
        let saved = self.view.scaling.as_ref().map(Handle::saved);
        let state = saved.and_then(|json| State::from_json(&json, clock.now()).ok()).unwrap_or_default();
        Self::over(config, self.fleet.clone(), clock, state)
    }

    fn over(config: config::Model, fleet: AnyFleet, clock: Clock, state: State) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let stop_scaling = stop.child_token();
        let pipeline = Pipeline::start(pipeline_config(&config));
        let replicas = fleet.replicas();

        let to_pipeline = pipeline.clone();
        let upstream = upstream::Config::new(protocol(config.protocol), Arc::clone(&config.name));
        let (follower, metadata) = Follower::new(upstream, move |set| to_pipeline.set_replicas(set));
        tasks.spawn(until(&stop, follower.follow(endpoints(replicas.clone()))));

        let asked = Arc::new(Asked::default());
        let source = LocalSource::new(pipeline.clone(), Arc::clone(&asked));
        let scaling = policy_of(&config).map(|policy| {
            // Another configuration gets another loop: this policy stays.
            let (_, policy) = watch::channel(Arc::new(policy));
            let (name, fleet) = (Arc::clone(&config.name), fleet.clone());
            let (reconciler, handle) = Reconciler::new(name, fleet, source, policy, clock, state);
            tasks.spawn(reconciler.run(stop_scaling.clone()));
            handle
        });
        let (ready, readiness) = watch::channel(Readiness::default());
        match &scaling {
            Some(handle) => {
                let outlook = handle.outlook.clone();
                tasks.spawn(until(&stop, tell_outlook(outlook, replicas.clone(), pipeline.clone(), ready)));
            }
            None => {
                tasks.spawn(until(&stop, tell_static(replicas.clone(), pipeline.clone(), ready)));
            }
        }
        let wake = Arc::new(Notify::new());
        let patience = config.cold_start_timeout;
        tasks.spawn(until(&stop, pass_on_wakes(Arc::clone(&wake), asked, pipeline.clone(), clock, patience)));

        let parts = Parts {
            name: Arc::clone(&config.name),
            dispatch: Arc::new(pipeline.clone()),
            protocol: protocol(config.protocol),
            deadlines: Deadlines {
                default: config.deadline.default,
                max: config.deadline.max,
                cold_start: config.cold_start_timeout,
            },
            metadata,
            readiness,
            wake,
        };
        let view = View { config, pipeline, replicas, scaling, clock, history: Mutex::default() };
        Self { view: Arc::new(view), parts, fleet, stop_scaling, stop: stop.drop_guard(), tasks }
    }

    pub(super) fn parts(&self) -> Parts {
        self.parts.clone()
    }

    /// A call that looked this model up before its successor was published may still be reading its body: it is
    /// answered here and not refused.
    async fn until_no_call_knows_it(&self) {
        let until = Instant::now() + STRAGGLERS;
        while Arc::strong_count(&self.parts.dispatch) > 1 && Instant::now() < until {
            tokio::time::sleep(STRAGGLERS_LOOK).await;
        }
    }

    /// Finishes what was admitted, then ends the replicas or leaves them to a successor.
    pub(super) async fn retire(self, replicas: Replicas) {
        if replicas == Replicas::Keep {
            self.stop_scaling.cancel();
        }
        self.until_no_call_knows_it().await;
        self.view.pipeline.close();
        self.tasks.close();
        // Until then replicas are followed: somebody may wait for one to start.
        self.view.pipeline.drained().await;
        drop(self.stop);
        self.tasks.wait().await;
        let Self { view, parts, fleet, .. } = self;
        // What still holds the pipeline holds calls on the replicas, and they would wait for it.
        view.pipeline.set_replicas(replica::ReplicaSet::default());
        drop(parts);
        if replicas == Replicas::Stop {
            fleet.shutdown().await;
        }
    }
}

/// `task`, cut short when `stop` is cancelled.
fn until<F: Future<Output = ()>>(stop: &CancellationToken, task: F) -> impl Future<Output = ()> + use<F> {
    let stop = stop.clone();
    async move {
        stop.run_until_cancelled(task).await;
    }
}

fn start_fleet(config: &config::Model) -> anyhow::Result<AnyFleet> {
    let (name, probe) =
        (Arc::clone(&config.name), probe(protocol(config.protocol), Arc::clone(&config.name)));
    Ok(match &config.fleet {
        Fleet::Process(process) => {
            let ourselves = env::current_exe().context("finding this program")?;
            let mut command = process.command.clone();
            if let Some(program) = command.first_mut().filter(|program| *program == "tidegate") {
                *program = ourselves.to_str().context("the path of this program is not UTF-8")?.to_owned();
            }
            let launcher = vec![ourselves.into_os_string(), "exec-replica".into()];
            let config = process::Config {
                env: process.env.clone(),
                launcher: Some(launcher),
                ..process::Config::new(name, command)
            };
            AnyFleet::Process(ProcessFleet::start(config, probe)?)
        }
        Fleet::Static { addresses } => AnyFleet::Static(StaticFleet::start(
            static_addresses::Config::new(name, addresses.clone()),
            probe,
        )?),
    })
}

/// The gateway's probe in the fleet's words.
fn probe(protocol: upstream::Protocol, model: Arc<str>) -> Probe {
    BoxCloneSyncService::new(upstream::probe(protocol, model).map_err(|error| match error {
        upstream::ProbeError::Unreachable => ProbeError::Unreachable(error.to_string().into()),
        _ => ProbeError::NotReady(error.to_string().into()),
    }))
}

fn protocol(protocol: Protocol) -> upstream::Protocol {
    match protocol {
        Protocol::V2Grpc => upstream::Protocol::V2Grpc,
        Protocol::V2Http => upstream::Protocol::V2Http,
        Protocol::V1 => upstream::Protocol::V1,
    }
}

fn pipeline_config(config: &config::Model) -> pipeline::Config {
    pipeline::Config {
        model: Arc::clone(&config.name),
        batching: config.batching,
        queue: config.queue,
        concurrency: config.concurrency,
        idempotent: config.idempotent,
        slo: config.slo.latency,
        cold_start_timeout: config.cold_start_timeout,
    }
}

fn policy_of(config: &config::Model) -> Option<Policy> {
    let scaling = config.fleet.scaling()?;
    let default = Assumed::default();
    let concurrency = match config.concurrency {
        Concurrency::Fixed(concurrency) => concurrency,
        Concurrency::Auto => default.concurrency,
    };
    Some(Policy {
        bounds: Bounds { min: scaling.min, max: scaling.max },
        slo: Slo { target: config.slo.latency, percentile: config.slo.quantile },
        idle_after: scaling.idle_after.map_or(IdleAfter::Auto, IdleAfter::Fixed),
        mode: match scaling.mode {
            config::Mode::Enforce => Mode::Enforce,
            config::Mode::Observe => Mode::Observe,
        },
        assumed: Assumed { concurrency, cold_start: PROCESS_START },
    })
}

/// The ready replicas, each time they change.
fn endpoints(replicas: watch::Receiver<Arc<[Replica]>>) -> impl Stream<Item = Vec<Endpoint>> {
    stream::unfold((replicas, true), |(mut replicas, first)| async move {
        if !first {
            replicas.changed().await.ok()?;
        }
        let ready: Vec<Endpoint> = replicas.borrow_and_update().iter().filter_map(endpoint).collect();
        Some((ready, (replicas, false)))
    })
}

fn endpoint(replica: &Replica) -> Option<Endpoint> {
    if replica.phase != Phase::Ready {
        return None;
    }
    Some(Endpoint {
        id: Arc::clone(&replica.id),
        address: replica.address?,
        ready_since: replica.ready_since?,
        hold: replica.hold.clone(),
    })
}

fn count_ready(replicas: &[Replica]) -> u32 {
    replicas.iter().filter(|replica| replica.phase == Phase::Ready).count() as u32
}

/// Tells requests that find no replica what to expect, and the readiness endpoints what to say.
async fn tell_outlook(
    mut outlook: watch::Receiver<Outlook>,
    mut replicas: watch::Receiver<Arc<[Replica]>>,
    pipeline: Pipeline,
    readiness: watch::Sender<Readiness>,
) {
    loop {
        let now = outlook.borrow_and_update().clone();
        let ready = count_ready(&replicas.borrow_and_update());
        let (expect, state) = match now {
            _ if ready > 0 => {
                (replica::Outlook::Starting { eta: None }, Readiness::Ready { replicas: ready })
            }
            Outlook::Asleep => (replica::Outlook::Starting { eta: None }, Readiness::Zero),
            Outlook::Starting { eta } => (replica::Outlook::Starting { eta }, Readiness::Starting),
            Outlook::Ready => (replica::Outlook::Starting { eta: None }, Readiness::Starting),
            Outlook::Failed { .. } => {
                let failed = Rejection::ColdStartFailed { retry_after: Duration::from_secs(30) };
                (replica::Outlook::Off(failed), Readiness::Off)
            }
        };
        pipeline.set_outlook(expect);
        readiness.send_if_modified(|before| std::mem::replace(before, state) != state);
        tokio::select! {
            changed = outlook.changed() => if changed.is_err() { return },
            changed = replicas.changed() => if changed.is_err() { return },
        }
    }
}

/// The same for fixed addresses, of which nobody can start another.
async fn tell_static(
    mut replicas: watch::Receiver<Arc<[Replica]>>,
    pipeline: Pipeline,
    readiness: watch::Sender<Readiness>,
) {
    let started = Instant::now();
    readiness.send_replace(Readiness::Starting);
    loop {
        let ready = count_ready(&replicas.borrow_and_update());
        let looking = started.elapsed() < FIRST_LOOK;
        let (expect, state) = match ready {
            0 if looking => (replica::Outlook::Starting { eta: None }, Readiness::Starting),
            0 => (replica::Outlook::Off(Rejection::NoReplicas { retry_after: DOWN_RETRY }), Readiness::Off),
            replicas => (replica::Outlook::Starting { eta: None }, Readiness::Ready { replicas }),
        };
        pipeline.set_outlook(expect);
        readiness.send_if_modified(|before| std::mem::replace(before, state) != state);
        tokio::select! {
            changed = replicas.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(FIRST_LOOK), if looking => {}
        }
    }
}

async fn pass_on_wakes(
    wake: Arc<Notify>,
    asked: Arc<Asked>,
    pipeline: Pipeline,
    clock: Clock,
    patience: Duration,
) {
    loop {
        wake.notified().await;
        asked.ask(clock.now() + patience);
        pipeline.ask_to_wake();
    }
}
