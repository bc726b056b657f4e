//! The accept loop: bounded connections, a deadline for the first byte, and a drain in three steps.
//!
//! Draining: for `accept_for` everything goes on, but readiness says no and HTTP/1 answers carry
//! `connection: close`; then nothing new is accepted and every connection finishes its open calls; what is left
//! after `drain` is cut off.

pub(crate) mod activity;
mod connection;
mod descriptors;
mod transport;
mod unread;

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{frontend::Gateway, listen::connection::Connection};

const BACKLOG: i32 = 4096;
/// Pause after an accept that failed for want of descriptors or memory; others must close something first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often the log says so.
const ACCEPT_WARNING_EVERY: Duration = Duration::from_secs(10);
/// A peer that acknowledges nothing of what was sent, or keeps its window shut, is cut off after this.
const UNSENT_MAX: Duration = Duration::from_secs(30);

/// A bound address, not yet accepting.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
}

impl Listener {
    /// Binds `address`. Must be called inside a runtime.
    ///
    /// # Errors
    /// Those of the operating system: the address is in use, or not ours.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from_std(StdListener::from(socket))?;
        Ok(Self { listener })
    }

    /// The bound address, with the port that was chosen for port 0.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every connection finished by itself.
    Clean,
    /// This many connections were cut off at the deadline.
    CutOff(usize),
}

/// What every connection is given.
#[derive(Clone, Debug)]
struct Lifecycle {
    /// Finish what is open, take nothing new.
    finish: CancellationToken,
    /// Stop at once.
    abort: CancellationToken,
    connections: TaskTracker,
    places: Arc<Semaphore>,
}

impl Gateway {
    /// Accepts and answers until `shutdown` is cancelled, then drains.
    pub async fn serve(&self, listeners: Vec<Listener>, shutdown: CancellationToken) -> Drained {
        let life = Lifecycle {
            finish: CancellationToken::new(),
            abort: CancellationToken::new(),
            connections: TaskTracker::new(),
            places: Arc::new(Semaphore::new(descriptors::places(self.config().limits.connections))),
        };
        let closed = CancellationToken::new();
        let accepting = TaskTracker::new();
        for listener in listeners {
            let (gateway, life, closed) = (self.clone(), life.clone(), closed.clone());
            accepting.spawn(async move {
                let accept = accept_forever(&gateway, listener.listener, &life);
                closed.run_until_cancelled(accept).await;
            });
        }
        accepting.close();
        shutdown.cancelled().await;
        self.start_draining();
        sleep(self.config().shutdown.accept_for).await;
        closed.cancel();
        accepting.wait().await;
        drain(&life, self.config().shutdown.drain).await
    }
}

/// Lets connections finish for as long as `patience` lasts.
async fn drain(life: &Lifecycle, patience: Duration) -> Drained {
    life.connections.close();
    life.finish.cancel();
    if timeout(patience, life.connections.wait()).await.is_ok() {
        return Drained::Clean;
    }
    let left = life.connections.len();
    tracing::warn!(connections = left, "open calls did not finish in time and were cut off");
    life.abort.cancel();
    life.connections.wait().await;
    Drained::CutOff(left)
}

async fn accept_forever(gateway: &Gateway, listener: TcpListener, life: &Lifecycle) {
    let mut warned: Option<Instant> = None;
    loop {
        let Ok(place) = Arc::clone(&life.places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => open(gateway, stream, place, life),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if warned.is_none_or(|at| at.elapsed() >= ACCEPT_WARNING_EVERY) {
                    tracing::warn!(%error, "cannot accept connections for a moment");
                    warned = Some(Instant::now());
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The peer gave up before it was accepted: nothing is wrong with the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn open(gateway: &Gateway, stream: TcpStream, place: OwnedSemaphorePermit, life: &Lifecycle) {
    // Either option only makes things faster or safer; a connection without them still works.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNSENT_MAX));
    let connection =
        Connection { gateway: gateway.clone(), finish: life.finish.clone(), abort: life.abort.clone() };
    life.connections.spawn(async move {
        connection.run(stream).await;
        drop(place);
    });
}
