//! The task behind a catalogue: waits for the kind, watches it, and publishes what has changed in the specs. Written
//! statuses, our own ones, are no news.

use std::{sync::Arc, time::Duration};

use futures_util::future::{FutureExt as _, select_all};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use rand::Rng as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{
    super::{
        cluster::{ApiError, Cluster},
        watch::{Followed, Pace, Parts, Subject, Watch},
    },
    Catalogue, Freshness, GROUP, ModelObject, OBJECTS_MAX, PLURAL, Scope, VERSION,
    wire::Sighting,
};

const ASK_AGAIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Lookout {
    cluster: Cluster,
    scope: Scope,
    publisher: watch::Sender<Catalogue>,
    started: Instant,
}

impl Lookout {
    pub(super) fn new(cluster: Cluster, scope: Scope, publisher: watch::Sender<Catalogue>) -> Self {
        Self { cluster, scope, publisher, started: Instant::now() }
    }

    pub(super) async fn run(self) {
        tokio::select! {
            () = self.publisher.closed() => {}
            () = self.look() => {}
        }
    }

    async fn look(&self) {
        loop {
            self.wait_for_kind().await;
            self.watch().await;
        }
    }

    async fn wait_for_kind(&self) {
        let mut pace = Pace::default();
        loop {
            let freshness = match self.knows_kind().await {
                Ok(true) => return,
                Ok(false) => Freshness::KindMissing,
                Err(error) => Freshness::Unheard { since: self.unheard_since(), error },
            };
            let pause = match &freshness {
                Freshness::Unheard { error, .. } => pace.pause(error.retry_after()),
                _ => ASK_AGAIN.mul_f64(rand::rng().random_range(0.9..1.1)),
            };
            self.set(freshness);
            sleep(pause).await;
        }
    }

    /// Discovery is free to all who are known to the cluster, and tells what a 404 to a list would leave open.
    async fn knows_kind(&self) -> Result<bool, ApiError> {
        let request = http::Request::get(format!("/apis/{GROUP}/{VERSION}")).body(Vec::new());
        let request = request.map_err(kube::Error::HttpError)?;
        match self.cluster.client().request::<APIResourceList>(request).await.map_err(ApiError::from) {
            Ok(kinds) => Ok(kinds.resources.iter().any(|kind| kind.name == PLURAL)),
            Err(ApiError::NotFound(_)) => Ok(false),
            Err(error @ (ApiError::Unavailable { .. } | ApiError::Late(_) | ApiError::Throttled { .. })) => {
                Err(error)
            }
            // Not allowed to ask: then the watch will show.
            Err(_) => Ok(true),
        }
    }

    /// Until the kind is gone.
    async fn watch(&self) {
        let subjects = self.subjects();
        let follow = |subject| Watch::<Sighting>::of(&self.cluster, subject).follow(|_| true);
        let mut watches: Vec<_> = subjects.iter().map(follow).collect();
        loop {
            if watches.iter().any(|watch| matches!(watch.pulse().error, Some(ApiError::NotFound(_)))) {
                return;
            }
            self.publish(&watches);
            if watches.is_empty() {
                // No namespace, no model: there is nothing to wait for.
                return std::future::pending().await;
            }
            select_all(watches.iter_mut().map(|watch| watch.changed().boxed())).await;
        }
    }

    fn subjects(&self) -> Vec<Subject> {
        let subject = |path: String, namespace: &str| Subject {
            path: path.into(),
            kind: PLURAL.into(),
            namespace: namespace.into(),
            parts: Parts::All,
        };
        match &self.scope {
            Scope::AllNamespaces => vec![subject(format!("/apis/{GROUP}/{VERSION}/{PLURAL}"), "*")],
            Scope::Namespaces(names) => names
                .iter()
                .map(|name| subject(format!("/apis/{GROUP}/{VERSION}/namespaces/{name}/{PLURAL}"), name))
                .collect(),
        }
    }

    fn publish(&self, watches: &[Followed<Sighting>]) {
        let views: Option<Vec<_>> = watches.iter().map(Followed::view).collect();
        let pulses = watches.iter().map(Followed::pulse);
        let unheard =
            pulses.filter_map(|pulse| pulse.unheard_since.zip(pulse.error)).min_by_key(|(since, _)| *since);
        let freshness = match (unheard, &views) {
            (Some((since, error)), _) => Freshness::Unheard { since, error },
            (None, Some(_)) => Freshness::Current,
            (None, None) => Freshness::Unread,
        };
        let Some(views) = views else { return self.set(freshness) };
        let seen = views.iter().flat_map(|view| view.objects.iter());
        let mut objects: Vec<_> = seen.map(|sighting| Arc::clone(&sighting.model)).collect();
        objects.sort_by(|a, b| (a.created, &a.namespace, &a.name).cmp(&(b.created, &b.namespace, &b.name)));
        let beyond = objects.len().saturating_sub(OBJECTS_MAX);
        objects.truncate(OBJECTS_MAX);
        self.publisher.send_if_modified(|before| {
            if beyond > 0 && before.beyond == 0 {
                warn!(beyond, "there are more models than are taken notice of");
            }
            let changed =
                before.freshness != freshness || before.beyond != beyond || !same(&before.objects, &objects);
            if changed {
                *before = Catalogue { objects: objects.into(), beyond, freshness };
            }
            changed
        });
    }

    fn set(&self, freshness: Freshness) {
        self.publisher.send_if_modified(|before| {
            let changed = before.freshness != freshness;
            if changed && freshness == Freshness::KindMissing {
                info!("the cluster has no kind Model: only models of the configuration file are served");
            }
            before.freshness = freshness;
            changed
        });
    }

    fn unheard_since(&self) -> Instant {
        match self.publisher.borrow().freshness {
            Freshness::Unheard { since, .. } => since,
            Freshness::Unread => self.started,
            Freshness::Current | Freshness::KindMissing => Instant::now(),
        }
    }
}

/// Generations grow with the spec and with nothing else.
fn same(before: &[Arc<ModelObject>], now: &[Arc<ModelObject>]) -> bool {
    let same = |(a, b): (&Arc<ModelObject>, &Arc<ModelObject>)| {
        Arc::ptr_eq(a, b) || a.uid == b.uid && a.generation == b.generation
    };
    before.len() == now.len() && before.iter().zip(now).all(same)
}
