//! Deployments that come to life: a simulated scheduler, kubelet, and the controllers of Deployments, ReplicaSets and
//! EndpointSlices, which write directly to the store.
//!
//! While the cluster is down they stand still, and catch up afterwards. Real processes behind the pods are the
//! business of [`PodHooks`].

mod deployments;
mod endpoints;
mod engine;
mod kubelet;
mod rollout;
mod script;
mod services;
mod victims;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use script::{Outcome, Start};

use crate::{cluster::Cluster, workload::engine::Engine};

/// A pod, as scripts and hooks know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Empty for pods that belong to none.
    pub deployment: String,
    /// Its number among the pods its Deployment has ever had, from 0.
    pub number: u64,
}

/// What happens outside of the cluster when a pod does something. Called in order, and must not block.
pub trait PodHooks: Send + Sync {
    /// The address of a pod whose containers are about to run.
    fn address(&self, pod: &Pod, count: u64) -> IpAddr {
        let _ = pod;
        let [_, high, middle, low] = u32::try_from(count % 0xff_ffff).unwrap_or(0).to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(10, high.wrapping_add(128), middle, low))
    }

    /// Its containers run; they are not ready yet.
    fn started(&self, pod: &Pod, address: IpAddr) {
        let _ = (pod, address);
    }

    /// It is told to stop, and has its grace period left.
    fn stopping(&self, pod: &Pod) {
        let _ = pod;
    }

    /// Its containers have ended.
    fn stopped(&self, pod: &Pod) {
        let _ = pod;
    }
}

/// Pods that are nothing but objects.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHooks;

impl PodHooks for NoHooks {}

/// Tells how a pod starts.
pub type Script = Arc<dyn Fn(&Pod) -> Start + Send + Sync>;

/// How pods live.
#[derive(Clone)]
pub struct WorkloadOptions {
    pub script: Script,
    pub hooks: Arc<dyn PodHooks>,
    /// How long a change of a pod takes to reach the slices.
    pub endpoint_lag: Duration,
}

impl Default for WorkloadOptions {
    fn default() -> Self {
        Self {
            script: Arc::new(|_| Start::default()),
            hooks: Arc::new(NoHooks),
            endpoint_lag: Duration::ZERO,
        }
    }
}

impl fmt::Debug for WorkloadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadOptions").field("endpoint_lag", &self.endpoint_lag).finish_non_exhaustive()
    }
}

/// What a test tells the engine.
pub(crate) enum Command {
    Script(Script),
    Crash { namespace: String, name: String },
    Ready { namespace: String, name: String, ready: bool },
    Lag(Duration),
}

const COMMANDS_MAX: usize = 64;

/// The running simulation; it ends when this is dropped, and leaves everything as it is.
#[derive(Debug)]
pub struct Workload {
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
}

impl Workload {
    /// Brings the cluster's Deployments and Services to life. Must be called inside a runtime.
    #[must_use]
    pub fn start(cluster: &Cluster, options: WorkloadOptions) -> Self {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let stop = CancellationToken::new();
        let engine = Engine::new(cluster, options);
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = engine.run(receiver) => {}
                () = stopped.cancelled() => {}
            }
        });
        Self { commands, stop }
    }

    async fn tell(&self, command: Command) {
        // The engine ends only with this handle or with the runtime.
        let _ = self.commands.send(command).await;
    }

    /// From now on pods start like this; pods for which no node fits are tried again by it.
    pub async fn script(&self, script: impl Fn(&Pod) -> Start + Send + Sync + 'static) {
        self.tell(Command::Script(Arc::new(script))).await;
    }

    /// A pod's containers fail, and are restarted after the usual pause.
    pub async fn crash(&self, namespace: &str, name: &str) {
        self.tell(Command::Crash { namespace: namespace.to_owned(), name: name.to_owned() }).await;
    }

    /// A running pod's readiness probe fails from now on.
    pub async fn unready(&self, namespace: &str, name: &str) {
        self.tell(Command::Ready { namespace: namespace.to_owned(), name: name.to_owned(), ready: false })
            .await;
    }

    /// A running pod's readiness probe passes from now on.
    pub async fn ready(&self, namespace: &str, name: &str) {
        self.tell(Command::Ready { namespace: namespace.to_owned(), name: name.to_owned(), ready: true })
            .await;
    }

    /// From now on changes of pods take this long to reach the slices.
    pub async fn endpoint_lag(&self, lag: Duration) {
        self.tell(Command::Lag(lag)).await;
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
