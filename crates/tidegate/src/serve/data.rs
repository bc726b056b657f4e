//! The data path of one model in this process: its pipeline, the connections to its replicas, and what calls that
//! find no replica are told.

mod dispatch;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use autoscaler::{
    fleet::{Phase, Replica, ReplicaId},
    reconcile::{Clock, Outlook},
};
use futures_util::{Stream, stream};
use gateway::{
    Deadlines, Parts, Readiness,
    upstream::{self, Endpoint, Follower},
};
use pipeline::{Pipeline, Rejection, replica};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use self::dispatch::{chat_terms, pipeline_config};
use super::{
    model::Site,
    source::{Asked, Signals},
    tasks::Tasks,
};
use crate::config::{self, Protocol};

/// When clients of a model whose fixed addresses are all down should try again.
const DOWN_RETRY: Duration = Duration::from_secs(2);
/// When clients should try again where it is not known when a model may start.
const OFF_RETRY: Duration = Duration::from_secs(30);
/// How long fixed addresses may take to show themselves before requests are refused for want of one.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// Replicas that get nothing new although they are ready.
pub(super) type Withdrawn = Arc<BTreeSet<ReplicaId>>;

/// The data path of one model.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) pipeline: Pipeline,
    pub(super) parts: Parts,
    asked: Arc<Asked>,
    replicas: watch::Receiver<Arc<[Replica]>>,
    readiness: watch::Sender<Readiness>,
}

impl Data {
    /// Sends calls to whichever of `replicas` is ready and not among `withdrawn`.
    pub(super) fn start(
        config: &config::Model,
        replicas: watch::Receiver<Arc<[Replica]>>,
        withdrawn: watch::Receiver<Withdrawn>,
        site: &Site,
        tasks: &Tasks,
    ) -> Self {
        let pipeline = Pipeline::start(pipeline_config(config));
        let to_pipeline = pipeline.clone();
        let upstream = upstream::Config {
            tracer: site.tracer.clone(),
            ..upstream::Config::new(protocol(config.protocol), Arc::clone(&config.name))
        };
        let (follower, metadata) = Follower::new(upstream, move |set| to_pipeline.set_replicas(set));
        tasks.spawn(follower.follow(endpoints(replicas.clone(), withdrawn)));

        let asked = Arc::new(Asked::default());
        let wake = Arc::new(Notify::new());
        let patience = config.cold_start_timeout;
        tasks.spawn(pass_on_wakes(
            Arc::clone(&wake),
            Arc::clone(&asked),
            pipeline.clone(),
            site.clock,
            patience,
        ));

        let (readiness, ready) = watch::channel(Readiness::default());
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
            readiness: ready,
            chat: chat_terms(config),
            wake,
        };
        Self { pipeline, parts, asked, replicas, readiness }
    }

    /// What the pipeline counts.
    pub(super) fn signals(&self) -> Signals {
        Signals { pipeline: self.pipeline.clone(), asked: Arc::clone(&self.asked) }
    }

    /// From now on calls are told what `outlook` says; `None`: nobody can start a replica.
    pub(super) fn expect(&self, outlook: Option<watch::Receiver<Outlook>>, tasks: &Tasks) {
        let (replicas, pipeline, readiness) =
            (self.replicas.clone(), self.pipeline.clone(), self.readiness.clone());
        match outlook {
            Some(outlook) => tasks.spawn(tell_outlook(outlook, replicas, pipeline, readiness)),
            None => tasks.spawn(tell_static(replicas, pipeline, readiness)),
        }
    }
}

pub(super) fn protocol(protocol: Protocol) -> upstream::Protocol {
    match protocol {
        Protocol::V2Grpc => upstream::Protocol::V2Grpc,
        Protocol::V2Http => upstream::Protocol::V2Http,
        Protocol::V1 => upstream::Protocol::V1,
        Protocol::OpenAi => upstream::Protocol::OpenAi,
    }
}

/// The ready replicas that are not withdrawn, each time they change.
fn endpoints(
    replicas: watch::Receiver<Arc<[Replica]>>,
    withdrawn: watch::Receiver<Withdrawn>,
) -> impl Stream<Item = Vec<Endpoint>> {
    stream::unfold((replicas, withdrawn, true), |(mut replicas, mut withdrawn, first)| async move {
        if !first {
            tokio::select! {
                changed = replicas.changed() => changed.ok()?,
                Ok(()) = withdrawn.changed() => {}
            }
        }
        let leaving = Arc::clone(&withdrawn.borrow_and_update());
        let staying = |replica: &&Replica| !leaving.contains(&replica.id);
        let ready = replicas.borrow_and_update().iter().filter(staying).filter_map(endpoint).collect();
        Some((ready, (replicas, withdrawn, false)))
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
            Outlook::Off { until } => {
                let left = until.map_or(OFF_RETRY, |until| until.saturating_duration_since(Instant::now()));
                let off = Rejection::ScheduledOff { retry_after: left };
                (replica::Outlook::Off(off), Readiness::Off)
            }
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
