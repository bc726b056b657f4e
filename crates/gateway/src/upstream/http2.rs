//! HTTP/2 connections to one model server, over `h2` itself: a call polls its own stream, so that only the
//! connection has a task, and every error still says whether the call was sent.

use std::{
    future::{Future as _, poll_fn},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, Reason, RecvStream,
    client::{Builder, SendRequest},
};
use http::{HeaderMap, Request, Response};
use pipeline::CallError;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::dial::dial;

/// What a server may send ahead on one stream, and on a connection. The latter also is what keeps streams of
/// tiny frames alive: `h2` ends a connection whose unread small frames outgrow half of it.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Largest frame accepted; tensors come in fewer pieces than with the default of 16 KiB.
const FRAME_MAX: u32 = 256 << 10;
const HEADER_LIST_MAX: u32 = 32 << 10;
/// Streams opened before the server's settings are known.
const INITIAL_STREAMS: usize = 100;

/// Silence, with calls in flight, after which the server is pinged.
const PING_AFTER: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Pings without an answer's bytes between them: servers of gRPC's core end connections that send more.
const QUIET_PINGS_MAX: u32 = 3;

/// The connections to one server, opened when they are first needed.
#[derive(Debug)]
pub(super) struct Pool {
    address: SocketAddr,
    connect_timeout: Duration,
    slots: Box<[Slot]>,
    next: AtomicUsize,
}

#[derive(Debug, Default)]
struct Slot {
    link: Mutex<Option<Arc<Link>>>,
    /// Held by the call that connects; when connecting last failed.
    dialling: tokio::sync::Mutex<Option<Instant>>,
}

impl Pool {
    pub(super) fn new(address: SocketAddr, connect_timeout: Duration, connections: usize) -> Self {
        let slots = (0..connections.max(1)).map(|_| Slot::default()).collect();
        Self { address, connect_timeout, slots, next: AtomicUsize::new(0) }
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// `NotSent`, `Reset`, `BadResponse`. Statuses are no errors here.
    pub(super) async fn send(
        &self,
        head: Request<()>,
        body: Vec<Bytes>,
    ) -> Result<Response<Body>, CallError> {
        let turn = self.next.fetch_add(1, Relaxed);
        let slot = self.slots.get(turn % self.slots.len()).ok_or(CallError::NotSent)?;
        let (link, sender) = self.ready(slot).await?;
        link.send(sender, head, body).await
    }

    /// A connection that takes calls, as far as is known here: the one there is, or else a fresh one.
    async fn ready(&self, slot: &Slot) -> Result<(Arc<Link>, SendRequest<Bytes>), CallError> {
        if let Some(link) = slot.current()
            && let Some(sender) = link.ready().await
        {
            return Ok((link, sender));
        }
        let arrived = Instant::now();
        let mut failed = slot.dialling.lock().await;
        // Another call may have connected meanwhile, or have failed to: what it found out holds for this one.
        if let Some(link) = slot.current()
            && let Some(sender) = link.ready().await
        {
            return Ok((link, sender));
        }
        if failed.is_some_and(|failed| failed >= arrived) {
            return Err(CallError::NotSent);
        }
        let opened = Link::open(self.address, self.connect_timeout).await;
        *failed = opened.is_err().then(Instant::now);
        let link = Arc::new(opened?);
        *slot.link.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&link));
        let sender = link.ready().await.ok_or(CallError::NotSent)?;
        Ok((link, sender))
    }
}

impl Slot {
    fn current(&self) -> Option<Arc<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One connection. It lives as long as the pool or a call holds it.
#[derive(Debug)]
pub(super) struct Link {
    sender: SendRequest<Bytes>,
    activity: Arc<Activity>,
    _task: AbortOnDropHandle<()>,
}

/// What the keeper of a connection knows about its calls.
#[derive(Debug, Default)]
struct Activity {
    in_flight: AtomicUsize,
    /// Heads and pieces of answers received.
    progress: AtomicU64,
}

impl Link {
    /// Connects.
    ///
    /// # Errors
    /// `NotSent`.
    pub(super) async fn open(address: SocketAddr, connect_timeout: Duration) -> Result<Self, CallError> {
        let stream = dial(address, connect_timeout).await?;
        let handshake = Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_MAX)
            .max_header_list_size(HEADER_LIST_MAX)
            .initial_max_send_streams(INITIAL_STREAMS)
            .handshake(stream);
        let handshake = timeout(connect_timeout, handshake).await;
        let (sender, connection) = handshake.ok().and_then(Result::ok).ok_or(CallError::NotSent)?;
        let activity = Arc::new(Activity::default());
        let task = tokio::spawn(keep(connection, Arc::clone(&activity)));
        Ok(Self { sender, activity, _task: AbortOnDropHandle::new(task) })
    }

    /// A handle for one more call, unless the connection has ended or is being ended by the server.
    async fn ready(&self) -> Option<SendRequest<Bytes>> {
        self.sender.clone().ready().await.ok()
    }

    async fn send(
        self: Arc<Self>,
        mut sender: SendRequest<Bytes>,
        head: Request<()>,
        body: Vec<Bytes>,
    ) -> Result<Response<Body>, CallError> {
        let call = InFlight::new(self);
        let (response, mut stream) =
            sender.send_request(head, body.is_empty()).map_err(|_error| CallError::NotSent)?;
        let last = body.len().saturating_sub(1);
        for (index, piece) in body.into_iter().enumerate() {
            // A stream that is closed already says why in its answer.
            if stream.send_data(piece, index == last).is_err() {
                break;
            }
        }
        let response = response.await.map_err(|error| of_h2(&error))?;
        call.progressed();
        Ok(response.map(|stream| Body { stream, call }))
    }

    /// Opens a connection for one request; it is closed with the answer.
    ///
    /// # Errors
    /// As [`Pool::send`].
    pub(super) async fn send_only(
        self,
        head: Request<()>,
        body: Vec<Bytes>,
    ) -> Result<Response<Body>, CallError> {
        let sender = self.ready().await.ok_or(CallError::NotSent)?;
        Arc::new(self).send(sender, head, body).await
    }
}

/// One call of a connection.
#[derive(Debug)]
struct InFlight {
    link: Arc<Link>,
}

impl InFlight {
    fn new(link: Arc<Link>) -> Self {
        link.activity.in_flight.fetch_add(1, Relaxed);
        Self { link }
    }

    fn progressed(&self) {
        self.link.activity.progress.fetch_add(1, Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.link.activity.in_flight.fetch_sub(1, Relaxed);
    }
}

/// The body of an answer. Dropping it before its end resets the stream.
#[derive(Debug)]
pub(super) struct Body {
    stream: RecvStream,
    call: InFlight,
}

impl Body {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// `Reset`, `NotSent`, `BadResponse`.
    pub(super) async fn data(&mut self) -> Result<Option<Bytes>, CallError> {
        let Some(piece) = self.stream.data().await else { return Ok(None) };
        let piece = piece.map_err(|error| of_h2(&error))?;
        self.call.progressed();
        // Fails only once the stream has ended, when nobody waits for the capacity.
        let _ = self.stream.flow_control().release_capacity(piece.len());
        Ok(Some(piece))
    }

    /// The trailers, after the end of the data.
    ///
    /// # Errors
    /// As [`Body::data`].
    pub(super) async fn trailers(&mut self) -> Result<Option<HeaderMap>, CallError> {
        self.stream.trailers().await.map_err(|error| of_h2(&error))
    }
}

/// Runs a connection until it ends or no longer answers pings. Ending it fails its calls.
async fn keep<T>(mut connection: h2::client::Connection<T, Bytes>, activity: Arc<Activity>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let pings = connection.ping_pong().expect("taken once per connection");
    let mut connection = std::pin::pin!(connection);
    let mut silence = std::pin::pin!(unanswered(pings, activity));
    poll_fn(|context| {
        if connection.as_mut().poll(context).is_ready() {
            return std::task::Poll::Ready(());
        }
        Pin::new(&mut silence).poll(context)
    })
    .await;
}

/// Resolves when a ping is not answered.
async fn unanswered(mut pings: PingPong, activity: Arc<Activity>) {
    let mut seen = 0;
    let mut quiet = 0;
    loop {
        sleep(PING_AFTER).await;
        let progress = activity.progress.load(Relaxed);
        if progress != seen {
            (seen, quiet) = (progress, 0);
            continue;
        }
        if activity.in_flight.load(Relaxed) == 0 || quiet == QUIET_PINGS_MAX {
            continue;
        }
        quiet += 1;
        if !matches!(timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// What an error of a stream means. `h2` gives a peer's GOAWAY only to the streams above its last id; a
/// connection that it ends itself, over nonsense from the peer, takes streams along that had nothing to do
/// with that.
fn of_h2(error: &h2::Error) -> CallError {
    if error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM)) {
        CallError::NotSent
    } else if error.is_library() && error.is_reset() {
        CallError::BadResponse
    } else {
        CallError::Reset
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A connection in memory with a keeper, and the server's end of it.
    async fn kept(in_flight: usize) -> (AbortOnDropHandle<()>, DuplexStream, SendRequest<Bytes>) {
        let (ours, theirs) = duplex(64 << 10);
        let (sender, connection) = Builder::new().handshake(ours).await.unwrap();
        let activity = Arc::new(Activity { in_flight: in_flight.into(), ..Activity::default() });
        let keeper = tokio::spawn(keep(connection, activity));
        (AbortOnDropHandle::new(keeper), theirs, sender)
    }

    /// Answers pings for a time, and counts them.
    async fn answering(mut server: DuplexStream, time: Duration) -> u32 {
        const PING: u8 = 6;
        let mut pings = 0;
        let answer = async {
            let mut preface = [0; 24];
            server.read_exact(&mut preface).await.unwrap();
            server.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap(); // SETTINGS
            loop {
                let mut head = [0; 9];
                server.read_exact(&mut head).await.unwrap();
                let mut payload = vec![0; usize::from(head[2])];
                server.read_exact(&mut payload).await.unwrap();
                if head[3] == PING {
                    pings += 1;
                    server.write_all(&[0, 0, 8, PING, 1, 0, 0, 0, 0]).await.unwrap();
                    server.write_all(&payload).await.unwrap();
                }
            }
        };
        let forever: Result<std::convert::Infallible, _> = timeout(time, answer).await;
        assert!(forever.is_err());
        pings
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_server_is_given_up_when_a_ping_is_not_answered() {
        let (keeper, _frozen, _sender) = kept(1).await;
        let start = Instant::now();
        keeper.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 13);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_without_calls_is_not_pinged() {
        let (keeper, server, _sender) = kept(0).await;
        assert_eq!(answering(server, 600 * SECOND).await, 0);
        assert!(!keeper.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_computes_for_long_is_pinged_a_few_times_only() {
        let (keeper, server, _sender) = kept(1).await;
        assert_eq!(answering(server, 600 * SECOND).await, QUIET_PINGS_MAX);
        drop(keeper);
    }
}
