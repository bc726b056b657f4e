//! The API server, as everything here talks to it: bounded in time, counted, and with errors of a closed set.
//!
//! kube's own client answers late or never (it has no read time-out) and can repeat a write without telling; here
//! each call is sent once and ends within its patience. What is to be repeated, the caller decides: it knows
//! whether the reason for the call still holds.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use kube::{Api, Client, core::NamespaceResourceScope};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

mod budget;
mod call;
mod conduct;
mod connect;
mod error;
mod hearing;

use self::{budget::Budget, conduct::Conduct, hearing::Ear};
pub use self::{
    connect::{ConnectError, ConnectOptions},
    error::ApiError,
    hearing::Hearing,
};

/// How long a call may take unless it is told otherwise.
const PATIENCE: Duration = Duration::from_secs(10);
/// Reads at one time of what many models ask for at once: each is a connection of its own.
const READS_MAX: usize = 16;

/// A handle to one API server. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// What is under our conduct.
    inner: Client,
    shared: Arc<Shared>,
}

/// What all handles to one API server have together.
struct Shared {
    ear: Arc<Ear>,
    budget: Budget,
    reads: Semaphore,
    /// Watches and lookups in use, by what they are of.
    uses: Mutex<HashMap<Use, Weak<dyn Any + Send + Sync>>>,
}

type Use = (TypeId, Arc<str>);

impl Cluster {
    /// Reads the configuration; the API server is first asked by the first call. Tokens and certificate
    /// authorities of a pod are read again each minute.
    pub async fn connect(options: ConnectOptions) -> Result<Self, ConnectError> {
        Ok(Self::over(connect::connect(options).await?))
    }

    /// The API server behind a client, which should repeat nothing by itself. Must be called within a runtime.
    #[must_use]
    pub fn over(client: Client) -> Self {
        let shared = Shared {
            ear: Arc::new(Ear::new()),
            budget: Budget::new(),
            reads: Semaphore::new(READS_MAX),
            uses: Mutex::default(),
        };
        Self::with(client, Arc::new(shared), PATIENCE)
    }

    /// The same API server, with another patience: the longest that a call, or the first byte of a watch, may take.
    #[must_use]
    pub fn within(&self, patience: Duration) -> Self {
        Self::with(self.inner.clone(), Arc::clone(&self.shared), patience)
    }

    fn with(inner: Client, shared: Arc<Shared>, patience: Duration) -> Self {
        let namespace = inner.default_namespace().to_owned();
        let conduct = Conduct { client: inner.clone(), patience, ear: Arc::clone(&shared.ear) };
        let client = Client::new(conduct.service(), namespace);
        Self { client, inner, shared }
    }

    /// For calls that [`api`](Self::api) has no form for; they are under the same conduct. Errors become
    /// [`ApiError`] with `?` or `from`.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Objects of one kind in one namespace.
    #[must_use]
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType: Default>,
    {
        Api::namespaced(self.client(), namespace)
    }

    /// The namespace of the kubeconfig's context, or of the pod we run in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// Whether the API server answers, as all calls and watches find it.
    #[must_use]
    pub fn heard(&self) -> watch::Receiver<Hearing> {
        self.shared.ear.subscribe()
    }

    /// Returns when one more write is no burden to the API server, or fails if that would take too long.
    pub(super) async fn turn_to_write(&self) -> Result<(), ApiError> {
        self.shared.budget.turn().await
    }

    /// Returns when one more read is no burden to the API server. It goes on until the permit is dropped.
    pub(super) async fn turn_to_read(&self) -> SemaphorePermit<'_> {
        self.shared.reads.acquire().await.expect("nobody closes it")
    }

    /// The one `T` about `about` of all handles to this API server, made now if nobody has one.
    pub(super) fn share<T: Send + Sync + 'static>(
        &self,
        about: &str,
        make: impl FnOnce() -> Arc<T>,
    ) -> Arc<T> {
        let key = (TypeId::of::<T>(), Arc::from(about));
        let mut uses = self.shared.uses.lock().unwrap_or_else(PoisonError::into_inner);
        let found = uses.get(&key).and_then(Weak::upgrade).and_then(|any| any.downcast::<T>().ok());
        found.unwrap_or_else(|| {
            uses.retain(|_, weak| weak.strong_count() > 0);
            let made = make();
            let any: Arc<dyn Any + Send + Sync> = made.clone();
            uses.insert(key, Arc::downgrade(&any));
            made
        })
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace()).finish_non_exhaustive()
    }
}
