//! The port that gateways and KEDA call: bounded connections, and none that is only half alive.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream::{self, Stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Server, server::Connected},
};

const CONNECTIONS_MAX: usize = 1024;
/// Calls at a time on one connection; KEDA has one for every model on one connection.
const CALLS_MAX: u32 = 1024;
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// A peer that is connected has something to say.
const FIRST_BYTE_WITHIN: Duration = Duration::from_secs(5);
/// A peer that does not answer a ping is gone.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_WITHIN: Duration = Duration::from_secs(5);
/// Room for what a gateway with many models reports at once.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long open calls have to end after `stop`; they end by themselves when this process leads no longer.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves `services` until `stop`, and lets open calls end.
///
/// # Errors
/// None that one connection is to blame for: the transport itself failed.
pub async fn serve(
    listener: TcpListener,
    services: Routes,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let server = Server::builder()
        .max_concurrent_streams(CALLS_MAX)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PONG_WITHIN))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_routes(services)
        .serve_with_incoming_shutdown(peers(listener), stop.clone().cancelled_owned());
    let mut server = std::pin::pin!(server);
    tokio::select! {
        ended = &mut server => return ended,
        () = stop.cancelled() => {}
    }
    timeout(DRAIN, server).await.unwrap_or(Ok(()))
}

/// Connections as they come, for as long as there are places.
fn peers(listener: TcpListener) -> impl Stream<Item = io::Result<Peer>> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    stream::unfold((listener, places), async |(listener, places)| {
        // The semaphore is never closed: without a place there is no next connection.
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        let accepted = listener.accept().await.map(|(stream, _)| Peer::new(stream, place));
        if accepted.is_err() {
            sleep(ACCEPT_PAUSE).await;
        }
        Some((accepted, (listener, places)))
    })
}

/// A connection with a place, which must say something soon.
struct Peer {
    stream: TcpStream,
    first_byte: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl Peer {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit) -> Self {
        // It only makes things faster; a connection without it still works.
        let _ = stream.set_nodelay(true);
        Self { stream, first_byte: Some(Box::pin(sleep(FIRST_BYTE_WITHIN))), _place: place }
    }
}

impl Connected for Peer {
    type ConnectInfo = Option<SocketAddr>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.peer_addr().ok()
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.first_byte = None;
        } else if let Some(late) = &mut self.first_byte
            && late.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt as _, sync::watch, time::Instant};

    use super::*;
    use crate::{
        collector::{Collector, Listed},
        keda::Scaler,
        reporter::{Config, Reporter},
        server::Signals,
    };

    /// A port that is served, and how to stop that.
    async fn served(led: watch::Receiver<Option<u64>>) -> (SocketAddr, CancellationToken, impl Future) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("there are ports");
        let address = listener.local_addr().expect("is bound");
        let collector = Collector::new(watch::channel(Listed::default()).1);
        let services = Routes::new(Signals::service(collector.clone(), "leader-1".into(), led.clone()))
            .add_service(Scaler::service(collector, led));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, services, stop.clone()));
        (address, stop, serving)
    }

    #[tokio::test]
    async fn a_gateway_is_heard_over_tcp_and_let_go_at_the_end() {
        let (leading, led) = watch::channel(Some(1));
        let (address, stop, serving) = served(led).await;
        let leaders = watch::channel(Some(address.to_string().into())).1;
        let config = Config { gateway: "gateway-a".into(), version: "test".into() };
        let reporter = Reporter::start(config, leaders);
        let mut connected = reporter.connected();
        connected.wait_for(|connected| *connected).await.expect("the reporter lives");
        leading.send_replace(None);
        connected.wait_for(|connected| !connected).await.expect("the reporter lives");
        stop.cancel();
        serving.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_is_let_go() {
        let (_leading, led) = watch::channel(Some(1));
        let (address, _stop, _serving) = served(led).await;
        let mut peer = TcpStream::connect(address).await.expect("is served");
        let began = Instant::now();
        let mut bytes = Vec::new();
        let _ = peer.read_to_end(&mut bytes).await;
        assert!(began.elapsed() <= FIRST_BYTE_WITHIN * 2, "{:?}", began.elapsed());
    }
}
