//! The cluster: one handle to the store, its clock, its faults, its accounts and its log.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    accounts::Accounts,
    clock::Clock,
    faults::Faults,
    history::Change,
    kinds::Kind,
    log::Log,
    object::{Object, meta_text, set_at},
    patch,
    refusal::Refusal,
    service::ApiService,
    store::{Deleted, Deletion, Effect, Key, Operation, Part, Store, Writer},
};

/// Sizes and paces of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What the clock on the wall shows at the start.
    pub starts_at: Timestamp,
    /// Events kept for each kind; a watch that asks for earlier ones is told 410.
    pub history_max: usize,
    /// Calls kept in the log.
    pub calls_max: usize,
    /// Pace of bookmarks.
    pub bookmark_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            starts_at: Timestamp::constant(1_767_225_600, 0),
            history_max: 16_384,
            calls_max: 65_536,
            bookmark_every: Duration::from_secs(60),
        }
    }
}

/// What open streams and hanging calls are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) down: bool,
    /// Raised to break every open connection.
    pub(crate) breaks: u64,
    /// Raised to end every watch with 410.
    pub(crate) expiries: u64,
}

#[derive(Debug)]
struct Inner {
    store: Mutex<Store>,
    clock: Clock,
    options: Options,
    faults: Faults,
    accounts: Accounts,
    log: Log,
    control: watch::Sender<Control>,
}

/// A cluster in memory. Clones are the same cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    inner: Arc<Inner>,
    manager: Arc<str>,
}

/// The I/O error of a broken connection.
pub(crate) fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by the server")
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Cluster {
    /// A fresh cluster that starts at 2026-01-01T00:00:00Z.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    /// A fresh cluster. Made on a paused runtime, its wall clock stands still with it.
    #[must_use]
    pub fn with(options: Options) -> Self {
        let clock = Clock::starting_at(options.starts_at);
        let inner = Inner {
            store: Mutex::new(Store::new(options.history_max, clock.now())),
            clock,
            options,
            faults: Faults::default(),
            accounts: Accounts::default(),
            log: Log::new(options.calls_max),
            control: watch::Sender::default(),
        };
        Self { inner: Arc::new(inner), manager: "test".into() }
    }

    /// The same cluster, written to by another field manager: direct writes own fields under this name.
    #[must_use]
    pub fn writing_as(&self, manager: &str) -> Self {
        Self { inner: self.inner.clone(), manager: manager.into() }
    }

    /// The API as a service: what a client connects to. Give each client one of its own name.
    #[must_use]
    pub fn service(&self) -> ApiService {
        ApiService::new(self.clone())
    }

    #[must_use]
    pub fn clock(&self) -> Clock {
        self.inner.clock
    }

    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.inner.faults
    }

    #[must_use]
    pub fn accounts(&self) -> &Accounts {
        &self.inner.accounts
    }

    #[must_use]
    pub fn log(&self) -> &Log {
        &self.inner.log
    }

    /// The server goes away: calls fail by I/O errors, streams break, and calls that hang fail too.
    pub fn down(&self) {
        self.inner.control.send_modify(|control| {
            control.down = true;
            control.breaks += 1;
        });
    }

    /// The server is back, with all it had.
    pub fn up(&self) {
        self.inner.control.send_modify(|control| control.down = false);
    }

    /// Whether the server is away.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.inner.control.borrow().down
    }

    /// Breaks every open stream and hanging call, as a restart of a load balancer does.
    pub fn break_connections(&self) {
        self.inner.control.send_modify(|control| control.breaks += 1);
    }

    /// Forgets history: watches and continued lists from before now are told 410. Open watches go on.
    pub fn compact(&self) {
        self.store().compact();
    }

    /// Forgets history, and tells every open watch 410.
    pub fn expire_watches(&self) {
        self.compact();
        self.inner.control.send_modify(|control| control.expiries += 1);
    }

    /// The resource version of the last write.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.store().revision()
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.inner.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn control(&self) -> watch::Receiver<Control> {
        self.inner.control.subscribe()
    }

    pub(crate) fn bookmark_every(&self) -> Duration {
        self.inner.options.bookmark_every
    }
}

/// Direct access, without HTTP: faults, accounts and the log do not see it. Resources are named like in `kubectl`:
/// by `plural.group`, plural, singular or short name. The namespace of resources without one is ignored.
impl Cluster {
    fn kind(&self, resource: &str) -> Arc<Kind> {
        let kind = self.store().kinds.named(resource);
        kind.unwrap_or_else(|| panic!("no such resource: {resource}"))
    }

    pub(crate) fn writer(&self) -> Writer {
        Writer {
            manager: self.manager.to_string(),
            operation: Operation::Update,
            subresource: "",
            at: self.inner.clock.now(),
            effect: Effect::Kept,
        }
    }

    /// Creates an object, status and all, in the namespace it names (else `default`), which is made if need be.
    ///
    /// # Errors
    /// What the server has against it.
    ///
    /// # Panics
    /// For a resource that does not exist.
    pub fn create(&self, resource: &str, object: Value) -> Result<Value, Refusal> {
        let kind = self.kind(resource);
        let named = meta_text(&object, "namespace");
        let namespace = match (kind.namespaced(), named) {
            (false, _) => String::new(),
            (true, "") => "default".to_owned(),
            (true, named) => named.to_owned(),
        };
        let writer = self.writer();
        let mut store = self.store();
        if kind.namespaced() {
            store.ensure_namespace(&namespace, writer.at);
        }
        store.create_part(&kind, &namespace, (object, Part::Whole), &writer).map(|made| made.value.clone())
    }

    /// One object.
    ///
    /// # Panics
    /// For a resource that does not exist.
    #[must_use]
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let kind = self.kind(resource);
        let namespace = if kind.namespaced() { namespace } else { "" };
        let found = self.store().table(&kind).get(Key { namespace, name }).cloned();
        found.map(|object| object.value.clone())
    }

    /// All objects of a resource, of one namespace if given, in order of namespace and name.
    ///
    /// # Panics
    /// For a resource that does not exist.
    #[must_use]
    pub fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Value> {
        let kind = self.kind(resource);
        let found: Vec<Arc<Object>> = self.store().table(&kind).objects(namespace).cloned().collect();
        found.iter().map(|object| object.value.clone()).collect()
    }

    /// Changes an object in place, status and all; metadata the server owns stays as it is.
    ///
    /// # Errors
    /// 404, or what the server has against the result.
    ///
    /// # Panics
    /// For a resource that does not exist.
    pub fn edit(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        edit: impl FnOnce(&mut Value),
    ) -> Result<Value, Refusal> {
        let kind = self.kind(resource);
        let namespace = if kind.namespaced() { namespace } else { "" };
        let writer = self.writer();
        let edited = self.store().update(&kind, Key { namespace, name }, Part::Whole, &writer, |old| {
            let mut new = old.clone();
            edit(&mut new);
            Ok(new)
        });
        edited.map(|object| object.value.clone())
    }

    /// Changes an object by a JSON merge patch, status and all.
    ///
    /// # Errors
    /// 404, or what the server has against the result.
    ///
    /// # Panics
    /// For a resource that does not exist.
    pub fn merge(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        change: &Value,
    ) -> Result<Value, Refusal> {
        self.edit(resource, namespace, name, |object| patch::merge(object, change))
    }

    /// Sets the replicas of an object as a write to its scale subresource does.
    ///
    /// # Errors
    /// 404.
    ///
    /// # Panics
    /// For a resource that does not exist or does not scale.
    pub fn scale(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        replicas: u32,
    ) -> Result<Value, Refusal> {
        let kind = self.kind(resource);
        let paths = kind.scale.clone().unwrap_or_else(|| panic!("{resource} does not scale"));
        let writer = Writer { subresource: "scale", ..self.writer() };
        let scaled = self.store().update(&kind, Key { namespace, name }, Part::Main, &writer, |old| {
            let mut new = old.clone();
            set_at(&mut new, &paths.spec, json!(replicas));
            Ok(new)
        });
        scaled.map(|object| object.value.clone())
    }

    /// Deletes an object, at once unless finalizers hold it.
    ///
    /// # Errors
    /// 404.
    ///
    /// # Panics
    /// For a resource that does not exist.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) -> Result<(), Refusal> {
        self.delete_with_grace(resource, namespace, name, 0)
    }

    /// Deletes an object; a pod that runs somewhere is given `grace` seconds.
    ///
    /// # Errors
    /// 404.
    ///
    /// # Panics
    /// For a resource that does not exist.
    pub fn delete_with_grace(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        grace: u64,
    ) -> Result<(), Refusal> {
        let kind = self.kind(resource);
        let namespace = if kind.namespaced() { namespace } else { "" };
        let how = Deletion { grace: Some(grace), ..Deletion::default() };
        match self.store().delete(&kind, Key { namespace, name }, &how, &self.writer())? {
            Deleted::Gone(_) | Deleted::Terminating(_) => Ok(()),
        }
    }

    /// Shows `object` to open watches as if `change` had just happened, without storing anything: late, doubled and
    /// disordered events.
    ///
    /// # Panics
    /// For a resource that does not exist.
    pub fn replay(&self, resource: &str, change: Change, object: Value) {
        let kind = self.kind(resource);
        self.store().replay(&kind, change, object);
    }

    /// Waits until an object satisfies `holds` (called with None while it does not exist), and returns it.
    ///
    /// # Panics
    /// For a resource that does not exist.
    pub async fn until(
        &self,
        resource: &str,
        (namespace, name): (&str, &str),
        holds: impl Fn(Option<&Value>) -> bool,
    ) -> Option<Value> {
        let kind = self.kind(resource);
        let mut grown = self.store().table(&kind).history.growth();
        loop {
            grown.borrow_and_update();
            let found = self.get(resource, namespace, name);
            if holds(found.as_ref()) {
                return found;
            }
            grown.changed().await.expect("the cluster is held here");
        }
    }
}
