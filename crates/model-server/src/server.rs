//! The listening socket: accepts until told to stop, then lets the calls in flight finish.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr},
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    connection::{self, Calls},
    engine::Model,
    pace::Pace,
    serving::{Execution, Serving},
};

const CONNECTIONS_MAX: usize = 1024;
/// Pause after a failed accept, which mostly means that no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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

/// Calls were cut off when the server stopped.
#[derive(Debug, thiserror::Error)]
#[error("{connections} connections still had calls in flight {after:?} after the server was to stop")]
pub struct DrainError {
    pub connections: usize,
    pub after: Duration,
}

/// A bound server; it answers once [`Server::run`] is polled.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    serving: Arc<Serving>,
    drain: Duration,
}

impl Server {
    /// Binds the port for `models`, which are served under their own names.
    ///
    /// # Errors
    /// No model, two of one name, or the address cannot be had.
    pub async fn bind(models: Vec<Model>, options: Options) -> Result<Self, BindError> {
        let Options { address, max_concurrency, max_batch_size, start_delay, pace, drain } = options;
        check_names(&models)?;
        let listen = |source| BindError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let bound = listener.local_addr().map_err(listen)?;
        let execution = Execution { concurrency: max_concurrency, batch_size_max: max_batch_size, pace };
        let serving = Arc::new(Serving::new(models, execution, start_delay));
        Ok(Self { listener, address: bound, serving, drain })
    }

    /// The address bound, with the port that was taken where it was 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then refuses new calls and finishes those in flight. Dropping the future cuts
    /// every connection.
    ///
    /// # Errors
    /// Calls in flight did not end within [`Options::drain`] and were cut off.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), DrainError> {
        let Self { listener, serving, drain, .. } = self;
        let mut connections = JoinSet::new();
        accept(&listener, &Calls::new(Arc::clone(&serving)), &mut connections, &shutdown).await;
        serving.stop();
        drop(listener);
        let drained = tokio::time::timeout(drain, async {
            while connections.join_next().await.is_some() {}
            serving.idle().await;
        });
        match drained.await {
            Ok(()) => Ok(()),
            Err(_) => Err(DrainError { connections: connections.len(), after: drain }),
        }
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

async fn accept(
    listener: &TcpListener,
    calls: &Calls,
    connections: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let (stream, place) = tokio::select! {
            accepted = accept_one(listener, &room) => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = shutdown.cancelled() => return,
        };
        let calls = calls.clone();
        connections.spawn(async move {
            connection::serve(stream, calls).await;
            drop(place);
        });
    }
}

/// Waits for room before it takes a connection, so that the excess stays in the kernel's bounded backlog.
async fn accept_one(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (TcpStream, tokio::sync::OwnedSemaphorePermit) {
    let place = Arc::clone(room).acquire_owned().await.expect("the semaphore of connections is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
