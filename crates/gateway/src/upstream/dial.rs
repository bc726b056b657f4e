//! Connecting to a model server, with a bound on how long a dead peer goes unnoticed.

use std::{io, net::SocketAddr, time::Duration};

use pipeline::CallError;
use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, time::timeout};
use tracing::debug;

/// Silence after which the kernel asks whether the peer is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEP_ALIVE_PROBES: u32 = 3;
/// Longest that sent bytes may go unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// Opens a connection within `limit`.
///
/// # Errors
/// [`CallError::NotSent`], whatever the cause: nothing has been sent yet.
pub(super) async fn dial(address: SocketAddr, limit: Duration) -> Result<TcpStream, CallError> {
    let connected = timeout(limit, TcpStream::connect(address)).await;
    let stream = connected.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
    stream.and_then(tune).map_err(|error| {
        debug!(%address, %error, "cannot connect to model server");
        CallError::NotSent
    })
}

/// Black-holed peers are the kernel's to find: its probes cost no wake-up here, serve HTTP/1 as well as
/// HTTP/2, and offend no server that counts pings.
fn tune(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    let probes = TcpKeepalive::new()
        .with_time(KEEP_ALIVE)
        .with_interval(KEEP_ALIVE_INTERVAL)
        .with_retries(KEEP_ALIVE_PROBES);
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&probes)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(stream)
}
