//! One served model: its data path and the loop that scales it, wired together by where its replicas run.

use std::{env, sync::Arc, time::Duration};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use autoscaler::{
    fleet::Fleet as _,
    reconcile::{Clock, Reconciler},
    record::Sink,
    state::State,
};
use fleet::{
    AnyFleet, ProcessFleet, StaticFleet,
    probe::{Probe, ProbeError},
    process, static_addresses,
};
use gateway::{Parts, trace::Tracer, upstream};
use pipeline::replica;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt as _, util::BoxCloneSyncService};

use super::{
    Role,
    cluster::{Cluster, Sight},
    data::{Data, Withdrawn, protocol},
    policy::policy,
    record::recorder,
    source::LocalSource,
    tasks::Tasks,
    view::{Deciding, View},
};
use crate::config::{self, Fleet};

/// How long a model that was replaced goes on for calls that came before, and how often it looks for them.
const STRAGGLERS: Duration = Duration::from_secs(30);
const STRAGGLERS_LOOK: Duration = Duration::from_millis(50);

/// What all models of this process share.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) clock: Clock,
    pub(super) role: Role,
    pub(super) cluster: Option<Arc<Cluster>>,
    /// Takes the spans of traced calls.
    pub(super) tracer: Option<Tracer>,
    /// Where decisions are recorded.
    pub(super) record: Sink,
}

/// A served model and the means to end it.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) view: Arc<View>,
    /// `None` where this process serves no clients.
    data: Option<Data>,
    replicas: Replicas,
    /// Ends the loop that scales, before the rest: a successor scales the same replicas.
    stop_scaling: CancellationToken,
    tasks: Tasks,
}

/// Where the replicas of a model come from.
#[derive(Debug)]
enum Replicas {
    /// From this process.
    Own(AnyFleet),
    /// From a cluster, which goes on without us; what calls see of them where this process serves any.
    Cluster(Option<Box<Sight>>),
}

/// What is left of a model when it stops being served as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Another configuration goes on with its replicas.
    Keep,
    Stop,
}

impl Served {
    /// Starts a model at as many replicas as its configuration demands.
    pub(super) fn start(config: config::Model, site: &Site) -> anyhow::Result<Self> {
        let context = || format!("model {}", config.name);
        match &config.fleet {
            Fleet::Kubernetes(kubernetes) => {
                let cluster = site.cluster.as_ref().context("there is no cluster").with_context(context)?;
                let sight =
                    cluster.sight(&config, kubernetes, probe(&config)).with_context(context)?.map(Box::new);
                Ok(Self::in_cluster(config, sight, site, None))
            }
            _ => {
                let fleet = start_fleet(&config).with_context(context)?;
                Ok(Self::own(config, fleet, site, State::default()))
            }
        }
    }

    /// The same replicas, served by another configuration.
    pub(super) fn with(&self, config: config::Model, site: &Site) -> Self {
        let saved = self.view.scaling().map(|deciding| deciding.handle.saved());
        let state = saved.and_then(|json| State::from_json(&json, site.clock.now()).ok());
        match &self.replicas {
            Replicas::Own(fleet) => Self::own(config, fleet.clone(), site, state.unwrap_or_default()),
            Replicas::Cluster(sight) => Self::in_cluster(config, sight.clone(), site, state),
        }
    }

    fn own(config: config::Model, fleet: AnyFleet, site: &Site, state: State) -> Self {
        let clock = site.clock;
        let tasks = Tasks::new();
        let endpoints = fleet.replicas();
        let (_, nothing) = watch::channel(Withdrawn::default());
        let data = Data::start(&config, endpoints.clone(), nothing, site, &tasks);
        let deciding = ArcSwapOption::empty();
        let mut stop_scaling = CancellationToken::new();
        let mut outlook = None;
        if let Some(policy) = policy(&config) {
            // Another configuration gets another loop: this policy stays.
            let (_, policy) = watch::channel(Arc::new(policy));
            let source = LocalSource::new(data.signals());
            let name = Arc::clone(&config.name);
            let (reconciler, handle) = Reconciler::new(name, fleet.clone(), source, policy, clock, state);
            let reconciler = reconciler.recorded(recorder(&site.record, &config, None));
            stop_scaling = tasks.spawn_with(|stop| reconciler.run(stop));
            outlook = Some(handle.outlook.clone());
            deciding.store(Some(Arc::new(Deciding { handle, replicas: endpoints.clone() })));
        }
        data.expect(outlook, &tasks);
        let pipeline = Some(data.pipeline.clone());
        let view = View { deciding, ..View::new(config, pipeline, clock, endpoints) };
        let replicas = Replicas::Own(fleet);
        Self { view: Arc::new(view), data: Some(data), replicas, stop_scaling, tasks }
    }

    fn in_cluster(
        config: config::Model,
        sight: Option<Box<Sight>>,
        site: &Site,
        state: Option<State>,
    ) -> Self {
        let tasks = Tasks::new();
        let served = sight.as_ref().map(|sight| sight.serve(&config, site, &tasks));
        let (data, directive) = served.unzip();
        let endpoints = match &sight {
            Some(sight) => sight.replicas(),
            None => watch::channel(Arc::default()).1,
        };
        let pipeline = data.as_ref().map(|data| data.pipeline.clone());
        let view = Arc::new(View { directive, ..View::new(config, pipeline, site.clock, endpoints) });
        let mut stop_scaling = CancellationToken::new();
        if let Some(cluster) = site.cluster.as_ref().filter(|_| site.role.decides()) {
            stop_scaling = tasks.spawn_with(|stop| Arc::clone(cluster).lead(Arc::clone(&view), state, stop));
        }
        Self { view, data, replicas: Replicas::Cluster(sight), stop_scaling, tasks }
    }

    /// Whether it is known which replicas there are.
    pub(super) fn is_known(&self) -> bool {
        match &self.replicas {
            Replicas::Own(_) | Replicas::Cluster(None) => true,
            Replicas::Cluster(Some(sight)) => sight.is_known(),
        }
    }

    /// What the gateway needs of it; `None` where this process serves no clients.
    pub(super) fn parts(&self) -> Option<Parts> {
        self.data.as_ref().map(|data| data.parts.clone())
    }

    /// Finishes what was admitted, then ends the replicas or leaves them to a successor.
    pub(super) async fn retire(self, after: After) {
        let Self { view, data, replicas, stop_scaling, tasks } = self;
        if after == After::Keep {
            stop_scaling.cancel();
        }
        let Some(Data { pipeline, parts, .. }) = data else {
            return tasks.stop().await;
        };
        until_no_call_knows(&parts).await;
        pipeline.close();
        // Until then replicas are followed: somebody may wait for one to start.
        pipeline.drained().await;
        tasks.stop().await;
        // What still holds the pipeline holds calls on the replicas, and they would wait for it.
        pipeline.set_replicas(replica::ReplicaSet::default());
        drop((view, parts));
        if let (Replicas::Own(fleet), After::Stop) = (replicas, after) {
            fleet.shutdown().await;
        }
    }
}

/// A call that looked a model up before its successor was published may still be reading its body: it is answered
/// by the model it found and not refused.
async fn until_no_call_knows(parts: &Parts) {
    let until = Instant::now() + STRAGGLERS;
    while Arc::strong_count(&parts.dispatch) > 1 && Instant::now() < until {
        tokio::time::sleep(STRAGGLERS_LOOK).await;
    }
}

fn start_fleet(config: &config::Model) -> anyhow::Result<AnyFleet> {
    let (name, probe) = (Arc::clone(&config.name), probe(config));
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
        Fleet::Kubernetes(_) => unreachable!("replicas of a cluster are not this process's own"),
    })
}

/// The gateway's probe in the fleet's words.
fn probe(config: &config::Model) -> Probe {
    let probe = upstream::probe(protocol(config.protocol), Arc::clone(&config.name));
    BoxCloneSyncService::new(probe.map_err(|error| match error {
        upstream::ProbeError::Unreachable => ProbeError::Unreachable(error.to_string().into()),
        _ => ProbeError::NotReady(error.to_string().into()),
    }))
}
