//! Objects of one kind in one namespace, as they are now: one list and one watch, shared by all who follow some of
//! them. Five hundred models in a namespace cost what one does.
//!
//! Not kube's watcher: it keeps a resource version that the API server has refused, and does not tell of bookmarks,
//! so nobody could know how old its picture is. Here a stalled connection is noticed within a minute, a picture
//! that went stale says since when, and a new list replaces the old picture at once and as a whole.

use std::{sync::Arc, time::Duration};

use futures_util::{TryStreamExt as _, pin_mut};
use kube::{
    api::{ListParams, WatchEvent, WatchParams},
    core::Request,
};
use metrics::gauge;
use rand::Rng as _;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::{Instant, interval, sleep, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::cluster::{ApiError, Cluster};

mod index;
mod pace;

use self::index::Index;
pub(super) use self::{
    index::{Followed, View},
    pace::Pace,
};

/// Objects in one answer to a list.
const PAGE: u32 = 500;
/// How long one watch lasts, in seconds. Its end, or the start of the next, is proof that the API server answers:
/// it sends bookmarks only once a minute, which is too seldom to tell silence from a stall.
const LIFE: std::ops::RangeInclusive<u32> = 40..=50;
/// How much longer than its life a watch may be silent before its connection is taken for dead.
const GRACE: Duration = Duration::from_secs(5);
/// A watch that ends sooner than this did not work.
const LIFE_MIN: Duration = Duration::from_secs(1);

/// What is kept of an object. Its `Deserialize` takes the few fields that matter and skips the rest.
pub(super) trait Watched: DeserializeOwned + Clone + Send + Sync + 'static {
    fn name(&self) -> &Arc<str>;
    fn version(&self) -> &Version;
}

/// A resource version: opaque by contract, a growing number in fact. One that is no number is never taken for old.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(super) struct Version(Box<str>);

impl Version {
    pub(super) fn is_newer_than(&self, other: &Self) -> bool {
        match (self.0.parse::<u64>(), other.0.parse::<u64>()) {
            (Ok(this), Ok(other)) => this > other,
            _ => self != other,
        }
    }

    fn is_known(&self) -> bool {
        !self.0.is_empty()
    }
}

impl From<&str> for Version {
    fn from(version: &str) -> Self {
        Self(version.into())
    }
}

/// What is watched.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    /// The path of the collection, like `/api/v1/namespaces/ml/pods`.
    pub(super) path: Arc<str>,
    /// Like `pods`.
    pub(super) kind: Arc<str>,
    pub(super) namespace: Arc<str>,
    pub(super) parts: Parts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    All,
    /// The API server leaves everything else out.
    Metadata,
}

/// One shared watch. It ends when the last [`Followed`] of it is dropped.
#[derive(Debug)]
pub(super) struct Watch<T> {
    index: Arc<Index<T>>,
    _driver: AbortOnDropHandle<()>,
}

impl<T: Watched> Watch<T> {
    /// The watch of `subject` that all of `cluster` share.
    pub(super) fn of(cluster: &Cluster, subject: &Subject) -> Arc<Self> {
        cluster.share(&subject.path, || {
            let index = Arc::new(Index::new());
            let driver = Driver {
                cluster: cluster.clone(),
                subject: subject.clone(),
                index: Arc::clone(&index),
                pace: Pace::default(),
            };
            Arc::new(Self { index, _driver: AbortOnDropHandle::new(tokio::spawn(driver.run())) })
        })
    }

    /// Those objects of which `wants` is true.
    pub(super) fn follow(self: Arc<Self>, wants: impl Fn(&T) -> bool + Send + 'static) -> Followed<T> {
        let (view, pulse) = self.index.follow(Box::new(wants));
        Followed::new(view, pulse, self)
    }
}

#[derive(Deserialize)]
struct Page<T> {
    metadata: PageMetadata,
    /// `null` for none.
    items: Option<Vec<T>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default)]
    resource_version: Version,
    #[serde(rename = "continue")]
    rest: Option<String>,
}

/// The one task that speaks for a watch.
struct Driver<T> {
    cluster: Cluster,
    subject: Subject,
    index: Arc<Index<T>>,
    pace: Pace,
}

/// Why a stream of events is over.
enum End {
    /// Its time was up, or its connection is dead: the next one starts where it ended.
    Over,
    /// What happened since its last event is not to be had any more.
    Gone,
    Failed(ApiError),
}

impl<T: Watched> Driver<T> {
    async fn run(mut self) {
        let age = report_age(Arc::clone(&self.index), self.subject.clone());
        tokio::select! {
            () = self.drive() => {}
            () = age => {}
        }
    }

    async fn drive(&mut self) {
        loop {
            match self.list().await {
                Ok(version) => {
                    let listed = Instant::now();
                    self.watch(version).await;
                    tracing::info!(watch = %self.subject, "the watch has lost its place: listing again");
                    sleep(self.pace.again(listed.elapsed())).await;
                }
                Err(error) => self.fail(error).await,
            }
        }
    }

    /// All objects, page by page, and put in place together.
    async fn list(&self) -> Result<Version, ApiError> {
        let (mut objects, mut rest) = (Vec::new(), None);
        loop {
            let page = self.page(rest.take()).await?;
            objects.extend(page.items.unwrap_or_default().into_iter().map(Arc::new));
            match page.metadata.rest.filter(|rest| !rest.is_empty()) {
                Some(more) => rest = Some(more),
                None => {
                    let version = page.metadata.resource_version;
                    if !version.is_known() {
                        return Err(ApiError::Invalid("a list without resource version".into()));
                    }
                    if self.index.replace(objects) {
                        tracing::info!(watch = %self.subject, "heard again");
                    }
                    return Ok(version);
                }
            }
        }
    }

    async fn page(&self, rest: Option<String>) -> Result<Page<T>, ApiError> {
        let params = ListParams { limit: Some(PAGE), continue_token: rest, ..ListParams::default() };
        let request = Request::new(&*self.subject.path);
        let request = match self.subject.parts {
            Parts::All => request.list(&params),
            Parts::Metadata => request.list_metadata(&params),
        };
        let request = request.map_err(kube::Error::BuildRequest)?;
        // Not parsed by kube, which would put an answer that it cannot read into the log.
        let text = self.cluster.client().request_text(request).await?;
        serde_json::from_str(&text)
            .map_err(|error| ApiError::unavailable(format!("unreadable list: {error}")))
    }

    /// Follows events from `version` on, until a list is needed.
    async fn watch(&mut self, mut version: Version) {
        loop {
            let started = Instant::now();
            let end = self.stream(&mut version).await;
            let lived = started.elapsed();
            match end {
                End::Gone => return,
                End::Over if lived >= LIFE_MIN => self.pace.settle(),
                End::Over => self.fail(ApiError::unavailable("the watch ended as soon as it began")).await,
                End::Failed(error) => self.fail(error).await,
            }
        }
    }

    async fn stream(&self, version: &mut Version) -> End {
        let life = rand::rng().random_range(LIFE);
        let deadline = Instant::now() + Duration::from_secs(life.into()) + GRACE;
        let params = WatchParams { timeout: Some(life), ..WatchParams::default() };
        let request = Request::new(&*self.subject.path);
        let request = match self.subject.parts {
            Parts::All => request.watch(&params, &version.0),
            Parts::Metadata => request.watch_metadata(&params, &version.0),
        };
        let request = match request {
            Ok(request) => request,
            Err(error) => return End::Failed(kube::Error::BuildRequest(error).into()),
        };
        let events = match self.cluster.client().request_events::<T>(request).await {
            Ok(events) => events,
            Err(error) => return refused(error.into()),
        };
        self.heard();
        pin_mut!(events);
        loop {
            match timeout_at(deadline, events.try_next()).await {
                Ok(Ok(Some(event))) => {
                    if let Some(end) = self.note(event, version) {
                        return end;
                    }
                }
                Ok(Ok(None)) => return End::Over,
                // What cannot be read now cannot be read at the next attempt either.
                Ok(Err(kube::Error::SerdeError(_))) => return End::Gone,
                Ok(Err(error)) => return refused(error.into()),
                Err(_) => {
                    tracing::warn!(watch = %self.subject, "the connection has stalled: connecting anew");
                    return End::Over;
                }
            }
        }
    }

    fn note(&self, event: WatchEvent<T>, version: &mut Version) -> Option<End> {
        self.heard();
        // An event that is not newer than the last one was delivered late or twice.
        let mut advance = |next: &Version| {
            let newer = next.is_newer_than(version);
            if newer {
                *version = next.clone();
            }
            newer
        };
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                if advance(object.version()) {
                    self.index.apply(Arc::new(object));
                }
            }
            WatchEvent::Deleted(object) => {
                if advance(object.version()) {
                    self.index.remove(object.name());
                }
            }
            WatchEvent::Bookmark(bookmark) => {
                advance(&Version::from(&*bookmark.metadata.resource_version));
            }
            WatchEvent::Error(status) => {
                return Some(match ApiError::from_status(&status) {
                    error @ ApiError::Throttled { .. } => End::Failed(error),
                    // From the same place it would fail again.
                    _ => End::Gone,
                });
            }
        }
        None
    }

    fn heard(&self) {
        if self.index.heard() {
            tracing::info!(watch = %self.subject, "heard again");
        }
    }

    async fn fail(&mut self, error: ApiError) {
        let asked = error.retry_after();
        if self.index.missed(&error) {
            tracing::warn!(watch = %self.subject, %error, "not heard any more");
        }
        sleep(self.pace.pause(asked)).await;
    }
}

/// A watch that could not begin, or broke.
fn refused(error: ApiError) -> End {
    match error {
        // An invalid resource version is one of before the API server's data were restored.
        ApiError::Gone | ApiError::Invalid(_) => End::Gone,
        error => End::Failed(error),
    }
}

async fn report_age<T: Watched>(index: Arc<Index<T>>, subject: Subject) {
    const EVERY: Duration = Duration::from_secs(5);
    let (kind, namespace) = (subject.kind.to_string(), subject.namespace.to_string());
    let age = gauge!("tidegate_watch_age_seconds", "kind" => kind, "namespace" => namespace);
    let mut tick = interval(EVERY);
    loop {
        tick.tick().await;
        age.set(index.age().as_secs_f64());
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}", self.kind, self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers_where_they_are_numbers() {
        let newer = |a: &str, b: &str| Version::from(a).is_newer_than(&Version::from(b));
        assert!(newer("10", "9"));
        assert!(!newer("9", "10"));
        assert!(!newer("9", "9"));
        assert!(newer("a", "b"));
        assert!(!newer("a", "a"));
        assert!(newer("1", ""));
    }
}
