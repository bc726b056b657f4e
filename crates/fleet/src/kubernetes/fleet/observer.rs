//! The one task that learns about the replicas of a fleet and their number.
//!
//! It asks nothing periodically: watches tell of pods and of changed specifications, and only after such a change
//! the number is read.

use std::{collections::HashMap, future::pending, sync::Arc};

use autoscaler::fleet::{Replica, Target};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::TaskTracker;

use super::{Config, Shared, known::Known, meta::Meta};
use crate::kubernetes::{
    cluster::{ApiError, Cluster},
    pods::{self, Life, Look, Pod, Selector},
    rivals::Rivals,
    scale::{Scale, Scaled},
    target::{Lookup, Resource},
    watch::{Followed, Pace, Parts, Subject, View, Watch, Watched as _},
};

pub(super) struct Observer {
    /// Of the usual patience.
    cluster: Cluster,
    shared: Arc<Shared>,
    kind: Lookup,
    started: Instant,
    /// Of the pods that are there, by uid.
    lives: HashMap<Arc<str>, Life>,
    /// Tokens of this are given for all replicas: gateways hold those that count.
    no_calls: TaskTracker,
}

/// What is looked at.
struct Sight {
    metas: Followed<Meta>,
    rivals: Rivals,
    pods: Option<Pods>,
    reading: Reading,
    blind_to_rivals: bool,
}

struct Pods {
    selector: Arc<str>,
    followed: Followed<Pod>,
    rollout: bool,
    listed: bool,
}

/// The state of knowing the number.
#[derive(Default)]
struct Reading {
    /// The object and its specification when it was last asked.
    asked_of: Option<(Arc<str>, Option<i64>)>,
    under_way: Option<BoxFuture<'static, Result<Scale, ApiError>>>,
    again_at: Option<Instant>,
    pace: Pace,
    failed: Option<(Instant, ApiError)>,
}

enum Event {
    Metas,
    Pods,
    Read(Result<Scale, ApiError>),
    ReadAgain,
    Other,
}

impl Observer {
    pub(super) fn new(cluster: &Cluster, shared: Arc<Shared>) -> Self {
        let started = Instant::now();
        // Until the first look is complete, nothing is known.
        shared.target.send_replace(Target { unheard_since: Some(started), ..Target::default() });
        Self {
            cluster: cluster.clone(),
            kind: Lookup::new(cluster, &shared.config.target),
            shared,
            started,
            lives: HashMap::new(),
            no_calls: TaskTracker::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let resource = self.find_kind().await;
        self.shared.known().resource = Some(resource.clone());
        let mut sight = self.open(&resource);
        loop {
            self.look(&mut sight, &resource);
            match sight.next(&self.shared).await {
                Event::Metas | Event::Pods | Event::Other => {}
                Event::Read(result) => self.read(&mut sight, result),
                Event::ReadAgain => sight.reading.asked_of = None,
            }
        }
    }

    /// Asks until the API server knows the kind.
    async fn find_kind(&self) -> Resource {
        let mut pace = Pace::default();
        loop {
            let error = match self.kind.resource().await {
                Ok(resource) => return resource.clone(),
                Err(error) => error,
            };
            let Config { model, target, .. } = &self.shared.config;
            tracing::warn!(%model, %target, %error, "what is to be scaled cannot be found");
            let trouble = hopeless(&error);
            self.shared.target.send_modify(|target| target.trouble = trouble);
            sleep(pace.pause(error.retry_after())).await;
        }
    }

    fn open(&self, resource: &Resource) -> Sight {
        let Config { namespace, target, .. } = &self.shared.config;
        let subject = Subject {
            path: resource.path(namespace).into(),
            kind: Arc::clone(&resource.plural),
            namespace: Arc::clone(namespace),
            parts: Parts::Metadata,
        };
        let name = Arc::clone(target.name());
        let mine = move |meta: &Meta| *meta.name() == name;
        Sight {
            metas: Watch::of(&self.cluster, &subject).follow(mine),
            rivals: Rivals::of(&self.cluster, namespace, resource, target.name()),
            pods: None,
            reading: Reading::default(),
            blind_to_rivals: false,
        }
    }

    /// Takes everything in, asks for the number if it may have changed, and publishes.
    fn look(&mut self, sight: &mut Sight, resource: &Resource) {
        let meta = sight.meta();
        match &meta {
            Some(meta) => self.follow_number(sight, meta, resource),
            None if sight.metas.view().is_some() => {
                self.shared.known().forget();
                sight.reading = Reading::default();
            }
            None => {}
        }
        self.follow_pods(sight);
        if let Some(blindness) = sight.rivals.blindness().filter(|_| !sight.blind_to_rivals) {
            sight.blind_to_rivals = true;
            let model = &self.shared.config.model;
            tracing::warn!(%model, error = %blindness, "another autoscaler of the same object would not be seen");
        }
        let target = self.target(sight, meta.as_ref());
        self.shared.target.send_if_modified(|before| {
            let news = *before != target;
            *before = target;
            news
        });
    }

    fn follow_number(&self, sight: &mut Sight, meta: &Meta, resource: &Resource) {
        let mut known = self.shared.known();
        let reading = &mut sight.reading;
        if known.scale.as_ref().is_some_and(|scale| scale.uid != meta.uid) {
            known.forget();
        }
        let asked_of = (Arc::clone(&meta.uid), meta.generation);
        let changed = reading.asked_of.as_ref() != Some(&asked_of);
        if known.includes(meta) {
            // As our own write has left it: there is nothing to ask.
            reading.asked_of = Some(asked_of);
            reading.under_way = None;
            reading.again_at = None;
            reading.failed = None;
            known.attribute(meta);
        } else if changed {
            let Config { namespace, target, .. } = &self.shared.config;
            let scaled = Scaled::new(&self.cluster, resource, namespace, target.name(), "tidegate");
            reading.asked_of = Some(asked_of);
            reading.again_at = None;
            let cluster = self.cluster.clone();
            reading.under_way = Some(Box::pin(async move {
                let _turn = cluster.turn_to_read().await;
                scaled.read().await
            }));
        } else if reading.under_way.is_none() && reading.failed.is_none() {
            known.attribute(meta);
        }
    }

    fn read(&self, sight: &mut Sight, result: Result<Scale, ApiError>) {
        let meta = sight.meta();
        let reading = &mut sight.reading;
        reading.under_way = None;
        match result {
            Ok(scale) => {
                reading.failed = None;
                reading.pace.settle();
                let mut known = self.shared.known();
                known.accept(scale);
                if let Some(meta) = meta {
                    known.attribute(&meta);
                }
            }
            Err(error) => {
                let since = reading.failed.as_ref().map_or_else(Instant::now, |(since, _)| *since);
                if reading.failed.is_none() {
                    tracing::warn!(model = %self.shared.config.model, %error, "its number cannot be read");
                }
                reading.again_at = Some(Instant::now() + reading.pace.pause(error.retry_after()));
                reading.failed = Some((since, error));
            }
        }
    }

    fn follow_pods(&mut self, sight: &mut Sight) {
        let selector = self.shared.known().scale.as_ref().and_then(|scale| scale.selector.clone());
        let Config { namespace, .. } = &self.shared.config;
        let followed = sight.pods.as_ref().map(|pods| &pods.selector);
        if let Some(selector) = selector.filter(|selector| followed != Some(selector)) {
            sight.pods = Pods::follow(&self.cluster, namespace, selector);
        }
        let Some(pods) = &mut sight.pods else { return };
        let Some(view) = pods.followed.fresh() else { return };
        pods.rollout = pods::is_rollout(view.objects.iter().map(|pod| &**pod));
        pods.listed = true;
        let listing = self.listing(&view);
        self.shared.known().pods = view.objects;
        self.shared.replicas.send_replace(listing);
    }

    /// The pods as replicas, in the order in which they were asked for.
    fn listing(&mut self, view: &View<Pod>) -> Arc<[Replica]> {
        let look = Look { now: Instant::now(), wall: Timestamp::now(), news_since: view.news_since };
        let mut before = std::mem::take(&mut self.lives);
        let mut pods: Vec<_> = view.objects.iter().filter_map(|pod| Some((pod, pod.phase?))).collect();
        pods.sort_by(|(a, _), (b, _)| a.seniority().cmp(&b.seniority()));
        let replica = |(pod, phase): (&Arc<Pod>, _)| {
            let life = Life::observe(pod, before.remove(&pod.uid).as_ref(), &look);
            self.lives.insert(Arc::clone(&pod.uid), life);
            Replica {
                id: Arc::clone(&pod.name),
                // Only gateways call it, and they learn where it is by themselves.
                address: None,
                phase,
                created: life.created,
                ready_since: life.ready_since,
                restarts: pod.restarts,
                trouble: pod.trouble.clone(),
                hold: self.no_calls.token(),
            }
        };
        pods.into_iter().map(replica).collect()
    }

    fn target(&self, sight: &Sight, meta: Option<&Meta>) -> Target {
        let known = self.shared.known();
        let trouble = self.trouble(sight, meta, &known);
        let listed = sight.pods.as_ref().is_some_and(|pods| pods.listed);
        let number = known.scale.as_ref().filter(|_| listed).map(|scale| scale.replicas);
        let untold = (number.is_none() && trouble.is_none()).then_some(self.started);
        Target {
            replicas: number,
            foreign: known.foreign.clone().filter(|_| number.is_some()),
            rival: sight.rivals.name(),
            rollout: sight.pods.as_ref().is_some_and(|pods| pods.rollout),
            unheard_since: sight.unheard_since().into_iter().chain(untold).min(),
            trouble,
        }
    }

    /// Why the number cannot be set, or not be known, until somebody does something about it.
    fn trouble(&self, sight: &Sight, meta: Option<&Meta>, known: &Known) -> Option<Arc<str>> {
        let Config { namespace, target, .. } = &self.shared.config;
        let refused = |error: Option<ApiError>| error.as_ref().and_then(hopeless);
        if let Some(words) = refused(sight.metas.pulse().error) {
            return Some(words);
        }
        if meta.is_none() && sight.metas.view().is_some() {
            return Some(format!("there is no {target} in namespace {namespace}").into());
        }
        let unreadable = sight.reading.failed.as_ref().map(|(_, error)| error.clone());
        if let Some(words) = refused(unreadable) {
            return Some(words);
        }
        let scale = known.scale.as_ref()?;
        let Some(pods) = &sight.pods else {
            return Some(match scale.selector.as_deref().map(Selector::parse) {
                Some(Err(error)) => error.to_string().into(),
                _ => format!("{target} does not tell by a selector which pods it has").into(),
            });
        };
        refused(pods.followed.pulse().error).or_else(|| refused(known.refusal().cloned()))
    }
}

impl Sight {
    fn meta(&self) -> Option<Meta> {
        self.metas.view()?.objects.first().map(|meta| Meta::clone(meta))
    }

    /// Since when what is known may be outdated.
    fn unheard_since(&self) -> Option<Instant> {
        let pods = self.pods.as_ref().and_then(|pods| pods.followed.pulse().unheard_since);
        let number = self.reading.failed.as_ref().map(|(since, _)| *since);
        [self.metas.pulse().unheard_since, pods, number].into_iter().flatten().min()
    }

    async fn next(&mut self, shared: &Shared) -> Event {
        let Self { metas, rivals, pods, reading, .. } = self;
        let refused_until = shared.known().refused_until();
        let pods_changed = async {
            match pods {
                Some(pods) => pods.followed.changed().await,
                None => pending().await,
            }
        };
        let read = async {
            match &mut reading.under_way {
                Some(read) => read.await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = metas.changed() => Event::Metas,
            () = pods_changed => Event::Pods,
            () = rivals.changed() => Event::Other,
            result = read => Event::Read(result),
            () = at(reading.again_at) => Event::ReadAgain,
            () = at(refused_until) => Event::Other,
            () = shared.news.notified() => Event::Other,
        }
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

impl Pods {
    /// `None` for a selector that is not understood: it must not select everything.
    fn follow(cluster: &Cluster, namespace: &Arc<str>, text: Arc<str>) -> Option<Self> {
        let selector = Selector::parse(&text).ok()?;
        let subject = Subject {
            path: format!("/api/v1/namespaces/{namespace}/pods").into(),
            kind: "pods".into(),
            namespace: Arc::clone(namespace),
            parts: Parts::All,
        };
        let followed = Watch::of(cluster, &subject).follow(move |pod: &Pod| selector.matches(&pod.labels));
        Some(Self { selector: text, followed, rollout: false, listed: false })
    }
}

/// An error that does not pass by itself, in words.
fn hopeless(error: &ApiError) -> Option<Arc<str>> {
    match error {
        ApiError::Forbidden { .. }
        | ApiError::Unauthenticated { .. }
        | ApiError::NotFound(_)
        | ApiError::Invalid(_) => Some(error.to_string().into()),
        ApiError::Conflict(_)
        | ApiError::AlreadyExists(_)
        | ApiError::Throttled { .. }
        | ApiError::Gone
        | ApiError::Unavailable { .. }
        | ApiError::Late(_) => None,
    }
}
