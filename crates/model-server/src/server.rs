//! The server of ONNX models: a port, and what is served on it.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr},
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    engine::Model,
    inference::InferenceCalls,
    listen::{DrainError, Limits, Listener},
    pace::Pace,
    serving::{Execution, Serving},
};

const CONNECTIONS_MAX: usize = 1024;

/// How to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port 0 takes a free one.
    pub address: SocketAddr,
    /// Calls that execute at a time, over all models.
    pub max_concurrency: NonZeroUsize,
    /// Rows a call may have, where a model has a batch dimension.
    pub max_batch_size: NonZeroU32,
    /// Imitates a slow load: live at once, ready after this long.
    pub start_delay: Duration,
    /// Imitates a slower model.
    pub pace: Pace,
    /// How long calls in flight may take once the server is to stop.
    pub drain: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            max_concurrency: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            max_batch_size: NonZeroU32::new(1024).expect("1024 is not zero"),
            start_delay: Duration::ZERO,
            pace: Pace::default(),
            drain: Duration::from_secs(30),
        }
    }
}

/// Why a server could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("no model to serve")]
    NoModels,
    #[error("two models are called {0:?}")]
    DuplicateModel(String),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
}

/// A bound server; it answers once [`Server::run`] is polled.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    serving: Arc<Serving>,
}

impl Server {
    /// Binds the port for `models`, which are served under their own names.
    ///
    /// # Errors
    /// No model, two of one name, or the address cannot be had.
    pub async fn bind(models: Vec<Model>, options: Options) -> Result<Self, BindError> {
        let Options { address, max_concurrency, max_batch_size, start_delay, pace, drain } = options;
        check_names(&models)?;
        let listener = Listener::bind(address, Limits { connections: CONNECTIONS_MAX, drain })
            .await
            .map_err(|source| BindError::Listen { address, source })?;
        let execution = Execution { concurrency: max_concurrency, batch_size_max: max_batch_size, pace };
        let serving = Arc::new(Serving::new(models, execution, start_delay));
        Ok(Self { listener, serving })
    }

    /// The address bound, with the port that was taken where it was 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Serves until `shutdown`, then refuses new calls and finishes those in flight. Dropping the future cuts
    /// every connection.
    ///
    /// # Errors
    /// Calls in flight did not end within [`Options::drain`] and were cut off.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), DrainError> {
        let Self { listener, serving } = self;
        let calls = InferenceCalls::new(Arc::clone(&serving));
        listener.run(&calls, &shutdown, || serving.stop(), serving.idle()).await
    }
}

fn check_names(models: &[Model]) -> Result<(), BindError> {
    if models.is_empty() {
        return Err(BindError::NoModels);
    }
    let mut names = BTreeSet::new();
    for name in models.iter().map(|model| &model.metadata().name) {
        if !names.insert(name) {
            return Err(BindError::DuplicateModel(name.clone()));
        }
    }
    Ok(())
}
