//! Replicas as child processes of this one, each on a free loopback port: the fleet of a laptop or a single server.
//!
//! [`ProcessFleet`] is a cheap handle; one task (`worker`) owns the replicas, one more per replica (`life`)
//! leads its process from start to end.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, sync::Arc, time::Duration};

use autoscaler::fleet::{Fleet, Replica, ReplicaId, ScaleError};
use tokio::sync::{mpsc, oneshot, watch};

use self::{
    life::Habits,
    recipe::Recipe,
    worker::{Command, Worker},
};
use crate::probe::{self, Probe};

mod backoff;
mod child;
mod departure;
mod forker;
mod life;
mod log;
mod port;
mod recipe;
mod worker;

pub use self::{backoff::Restart, recipe::RecipeError};

#[derive(Clone, Debug)]
pub struct Config {
    /// The served name. Replicas are called `MODEL-1`, `MODEL-2`, … and their log lines carry it.
    pub model: Arc<str>,
    /// Program and arguments. `{port}` becomes the loopback port on which the model is to be served; `{port2}`
    /// and `{port3}` become two more free ports, for servers that insist on them.
    pub command: Vec<String>,
    /// Added to the environment of this process; placeholders as in `command`.
    pub env: BTreeMap<String, String>,
    /// Where it runs. Default: where this process runs.
    pub directory: Option<PathBuf>,
    /// Program and first arguments of something that calls [`launch::exec`](crate::launch::exec) with the
    /// `--parent-pid PID -- COMMAND…` that follow. Without, replicas outlive a SIGKILL of this process.
    pub launcher: Option<Vec<OsString>>,
    pub probe: probe::Timing,
    pub restart: Restart,
    /// How long a leaving replica may go on with the calls it has. Default 30 s.
    pub drain_timeout: Duration,
    /// How long it may take from SIGTERM to its end before it gets SIGKILL. Default 10 s.
    pub stop_timeout: Duration,
}

impl Config {
    /// The defaults for a command.
    pub fn new(model: Arc<str>, command: Vec<String>) -> Self {
        Self {
            model,
            command,
            env: BTreeMap::new(),
            directory: None,
            launcher: None,
            probe: probe::Timing::default(),
            restart: Restart::default(),
            drain_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(10),
        }
    }
}

/// A handle to the replicas of one model. When the last one is dropped without [`shutdown`](Self::shutdown), the
/// replicas are killed.
#[derive(Clone, Debug)]
pub struct ProcessFleet {
    commands: mpsc::Sender<Command>,
    listing: watch::Receiver<Arc<[Replica]>>,
}

impl ProcessFleet {
    /// A fleet of no replicas yet. Must be called within a runtime, which then runs it.
    pub fn start(config: Config, probe: Probe) -> Result<Self, RecipeError> {
        const COMMANDS_MAX: usize = 16;
        let Config {
            model,
            command,
            env,
            directory,
            launcher,
            probe: timing,
            restart,
            drain_timeout,
            stop_timeout,
        } = config;
        let recipe = Recipe::new(command, env, directory, launcher)?;
        let habits = Habits { recipe, probe, timing, restart, drain_timeout, stop_timeout };
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let (publisher, listing) = watch::channel(Arc::default());
        tokio::spawn(Worker::new(model, habits, queue, publisher).run());
        Ok(Self { commands, listing })
    }

    /// Drains and stops all replicas; nothing can be started any more. Takes at most the drain and stop timeouts
    /// together and a few seconds for what the kernel will not let go.
    pub async fn shutdown(&self) {
        let (done, end) = oneshot::channel();
        if self.commands.send(Command::Shutdown { done }).await.is_ok() {
            // Never answered: its end is the answer.
            drop(end.await);
        }
    }
}

impl Fleet for ProcessFleet {
    fn replicas(&self) -> watch::Receiver<Arc<[Replica]>> {
        self.listing.clone()
    }

    async fn scale(&self, target: u32, victims: &[ReplicaId]) -> Result<(), ScaleError> {
        let gone = || ScaleError::Unavailable("the fleet was shut down".into());
        let (done, result) = oneshot::channel();
        let command = Command::Scale { target, victims: victims.into(), done };
        self.commands.send(command).await.map_err(|_| gone())?;
        result.await.unwrap_or_else(|_| Err(gone()))
    }
}
