//! The objects of one watch, and who follows which of them.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{Watch, Watched};
use crate::kubernetes::cluster::ApiError;

/// Failures are not told before they have gone on for this long: one that is over at the next attempt is no news.
const BRIEF: Duration = Duration::from_secs(10);
/// Unless the picture is older than this by then.
const STALE: Duration = Duration::from_secs(60);

/// Some objects of a watch, ordered by name.
#[derive(Debug)]
pub(in crate::kubernetes) struct View<T> {
    pub(in crate::kubernetes) objects: Arc<[Arc<T>]>,
    /// What is new in this view has come about after this; `None` in the first view.
    pub(in crate::kubernetes) news_since: Option<Instant>,
}

impl<T> Clone for View<T> {
    fn clone(&self) -> Self {
        Self { objects: Arc::clone(&self.objects), news_since: self.news_since }
    }
}

/// Whether what is seen is current.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::kubernetes) struct Pulse {
    /// Since when nothing was heard, while that is so.
    pub(in crate::kubernetes) unheard_since: Option<Instant>,
    /// Why.
    pub(in crate::kubernetes) error: Option<ApiError>,
}

type Wants<T> = Box<dyn Fn(&T) -> bool + Send>;

pub(super) struct Index<T> {
    state: Mutex<State<T>>,
    pulse: watch::Sender<Pulse>,
}

struct State<T> {
    objects: HashMap<Arc<str>, Arc<T>>,
    listed: bool,
    /// When the picture was last known to be current; before the first list, when it was asked for.
    heard: Instant,
    /// Since when attempts have failed.
    failing: Option<Instant>,
    followers: Vec<Follower<T>>,
}

/// Somebody who follows some of the objects.
struct Follower<T> {
    wants: Wants<T>,
    members: BTreeMap<Arc<str>, Arc<T>>,
    view: watch::Sender<Option<View<T>>>,
}

impl<T: Watched> Index<T> {
    pub(super) fn new() -> Self {
        let state = State {
            objects: HashMap::new(),
            listed: false,
            heard: Instant::now(),
            failing: None,
            followers: Vec::new(),
        };
        Self { state: Mutex::new(state), pulse: watch::Sender::default() }
    }

    pub(super) fn follow(
        &self,
        wants: Wants<T>,
    ) -> (watch::Receiver<Option<View<T>>>, watch::Receiver<Pulse>) {
        let mut state = self.lock();
        let mut follower = Follower { wants, members: BTreeMap::new(), view: watch::Sender::new(None) };
        if state.listed {
            follower.reset(&state.objects);
            follower.publish(None);
        }
        let view = follower.view.subscribe();
        state.followers.retain(|follower| !follower.view.is_closed());
        state.followers.push(follower);
        (view, self.pulse.subscribe())
    }

    /// All objects anew; says whether nothing was heard before.
    pub(super) fn replace(&self, objects: Vec<Arc<T>>) -> bool {
        let mut state = self.lock();
        let news_since = state.listed.then_some(state.heard);
        state.objects = objects.into_iter().map(|object| (Arc::clone(object.name()), object)).collect();
        state.objects.shrink_to_fit();
        state.listed = true;
        let State { objects, followers, .. } = &mut *state;
        for follower in followers {
            if follower.reset(objects) || news_since.is_none() {
                follower.publish(news_since);
            }
        }
        drop(state);
        self.heard()
    }

    pub(super) fn apply(&self, object: Arc<T>) {
        let mut state = self.lock();
        for follower in &mut state.followers {
            let changed = if (follower.wants)(&object) {
                follower.members.insert(Arc::clone(object.name()), Arc::clone(&object));
                true
            } else {
                follower.members.remove(object.name()).is_some()
            };
            if changed {
                follower.publish(Some(Instant::now()));
            }
        }
        state.objects.insert(Arc::clone(object.name()), object);
    }

    pub(super) fn remove(&self, name: &str) {
        let mut state = self.lock();
        state.objects.remove(name);
        for follower in &mut state.followers {
            if follower.members.remove(name).is_some() {
                follower.publish(Some(Instant::now()));
            }
        }
    }

    /// The API server has spoken; says whether that is news.
    pub(super) fn heard(&self) -> bool {
        let mut state = self.lock();
        if !state.listed {
            return false;
        }
        state.heard = Instant::now();
        state.failing = None;
        drop(state);
        self.tell(Pulse::default())
    }

    /// An attempt has failed; says whether that is news.
    pub(super) fn missed(&self, error: &ApiError) -> bool {
        let mut state = self.lock();
        let (listed, since) = (state.listed, state.heard);
        let failing = *state.failing.get_or_insert_with(Instant::now);
        drop(state);
        let may_pass = error.is_unsure() || matches!(error, ApiError::Throttled { .. });
        if listed && may_pass && failing.elapsed() < BRIEF && since.elapsed() < STALE {
            return false;
        }
        self.tell(Pulse { unheard_since: Some(since), error: Some(error.clone()) })
    }

    pub(super) fn age(&self) -> Duration {
        self.lock().heard.elapsed()
    }

    fn tell(&self, pulse: Pulse) -> bool {
        let mut news = false;
        self.pulse.send_if_modified(|before| {
            let changed = *before != pulse;
            news = before.unheard_since.is_some() != pulse.unheard_since.is_some();
            *before = pulse;
            changed
        });
        news
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Watched> Follower<T> {
    /// Takes its part of `objects`; says whether that is another one than before.
    fn reset(&mut self, objects: &HashMap<Arc<str>, Arc<T>>) -> bool {
        let wanted = objects.values().filter(|object| (self.wants)(object));
        let members = wanted.map(|object| (Arc::clone(object.name()), Arc::clone(object))).collect();
        let before = std::mem::replace(&mut self.members, members);
        let same = |(a, b): (&Arc<T>, &Arc<T>)| a.name() == b.name() && a.version() == b.version();
        before.len() != self.members.len() || !before.values().zip(self.members.values()).all(same)
    }

    fn publish(&self, news_since: Option<Instant>) {
        let objects = self.members.values().cloned().collect();
        self.view.send_replace(Some(View { objects, news_since }));
    }
}

impl<T> fmt::Debug for Index<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("pulse", &*self.pulse.borrow()).finish_non_exhaustive()
    }
}

/// Some objects of a shared watch, followed until this is dropped.
#[derive(Debug)]
pub(in crate::kubernetes) struct Followed<T> {
    view: watch::Receiver<Option<View<T>>>,
    pulse: watch::Receiver<Pulse>,
    /// The view was not taken yet.
    fresh: bool,
    _watch: Arc<Watch<T>>,
}

impl<T> Followed<T> {
    pub(super) fn new(
        view: watch::Receiver<Option<View<T>>>,
        pulse: watch::Receiver<Pulse>,
        watch: Arc<Watch<T>>,
    ) -> Self {
        Self { view, pulse, fresh: true, _watch: watch }
    }

    /// The objects as last seen; `None` before the first list.
    pub(in crate::kubernetes) fn view(&self) -> Option<View<T>> {
        self.view.borrow().clone()
    }

    pub(in crate::kubernetes) fn pulse(&self) -> Pulse {
        self.pulse.borrow().clone()
    }

    /// The objects, unless they are as they were when this was last asked.
    pub(in crate::kubernetes) fn fresh(&mut self) -> Option<View<T>> {
        if !std::mem::take(&mut self.fresh) {
            return None;
        }
        self.view.borrow_and_update().clone()
    }

    /// Resolves when the objects or the pulse have changed since this last resolved.
    pub(in crate::kubernetes) async fn changed(&mut self) {
        // Their senders live as long as the watch that this holds.
        tokio::select! {
            Ok(()) = self.view.changed() => self.fresh = true,
            Ok(()) = self.pulse.changed() => {}
            else => std::future::pending().await,
        }
    }
}
