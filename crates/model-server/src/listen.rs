//! The listening socket: accepts until told to stop, then lets the calls in flight finish.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::connection::{self, Calls};

/// Pause after a failed accept, which mostly means that no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound port.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    limits: Limits,
}

/// What a port holds, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at a time; more wait in the kernel's backlog.
    pub(crate) connections: usize,
    /// How long calls in flight may take once the server is to stop.
    pub(crate) drain: Duration,
}

/// Calls were cut off when the server stopped.
#[derive(Debug, thiserror::Error)]
#[error("{connections} connections still had calls in flight {after:?} after the server was to stop")]
pub struct DrainError {
    pub connections: usize,
    pub after: Duration,
}

impl Listener {
    /// Binds `address`.
    ///
    /// # Errors
    /// It cannot be had.
    pub(crate) async fn bind(address: SocketAddr, limits: Limits) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, limits })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, calls `stop`, and ends after the calls in flight and `idle`.
    ///
    /// # Errors
    /// That did not happen in time, and what was left is cut off.
    pub(crate) async fn run(
        self,
        calls: &impl Calls,
        shutdown: &CancellationToken,
        stop: impl FnOnce(),
        idle: impl Future<Output = ()>,
    ) -> Result<(), DrainError> {
        let Self { listener, limits, .. } = self;
        let room = Arc::new(Semaphore::new(limits.connections));
        let mut connections = JoinSet::new();
        loop {
            let (stream, place) = tokio::select! {
                accepted = accept(&listener, &room) => accepted,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                () = shutdown.cancelled() => break,
            };
            let calls = calls.clone();
            connections.spawn(async move {
                connection::serve(stream, calls).await;
                drop(place);
            });
        }
        stop();
        drop(listener);
        let drained = tokio::time::timeout(limits.drain, async {
            while connections.join_next().await.is_some() {}
            idle.await;
        });
        match drained.await {
            Ok(()) => Ok(()),
            Err(_) => Err(DrainError { connections: connections.len(), after: limits.drain }),
        }
    }
}

/// Waits for room before it takes a connection, so that the excess stays in the kernel's bounded backlog.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
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
