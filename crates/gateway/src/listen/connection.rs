//! One client connection: which HTTP it speaks, its limits, and the watch over its idleness.

use std::{pin::Pin, sync::Arc, time::Duration};

use hyper::{
    Request,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::{
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    activity::{Activity, Verdict},
    transport::Transport,
};
use crate::{Timeouts, frontend::Gateway};

/// Enough of the HTTP/2 preface: no HTTP/1 method begins so.
const PREFACE: &[u8] = b"PRI * ";
/// How often a connection is looked for that sent only a part of the preface.
const PEEK_AGAIN: Duration = Duration::from_millis(10);
/// How often a connection's idleness is looked at. An answer may stay unread for 15 looks.
const WATCH_EVERY: Duration = Duration::from_secs(2);

const HTTP1_BUFFER_MAX: usize = 64 << 10;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const SEND_BUFFER_MAX: usize = 128 << 10;
/// Streams that a peer may make us reset before the connection ends.
const LOCAL_RESETS_MAX: usize = 128;
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) gateway: Gateway,
    pub(super) finish: CancellationToken,
    pub(super) abort: CancellationToken,
}

/// What a client began to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    Http1,
    Http2,
}

impl Connection {
    /// Serves the connection to its end.
    pub(super) async fn run(self, stream: TcpStream) {
        let wait = self.gateway.config().timeouts.first_byte;
        let spoken = tokio::select! {
            spoken = timeout(wait, detect(&stream)) => spoken.ok().flatten(),
            () = self.finish.cancelled() => None,
        };
        match spoken {
            Some(Spoken::Http1) => self.http1(stream).await,
            // In a box of its own, for it is the larger: connections of HTTP/1 need not have room for it.
            Some(Spoken::Http2) => Box::pin(self.http2(stream)).await,
            None => {}
        }
    }

    async fn http1(&self, stream: TcpStream) {
        let limits = &self.gateway.config().limits;
        let activity = Activity::start();
        activity.bytes_read();
        let calls = Arc::clone(&activity);
        let gateway = &self.gateway;
        // In a box, since hyper keeps room for it as long as the connection lasts: all through an answer and
        // between calls.
        let service = service_fn(move |request: Request<Incoming>| {
            Box::pin(gateway.clone().answer(request, calls.begin()))
        });
        // Not `pipeline_flush`: with it, hyper closes on a malformed request without writing its answer.
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            // Watched by `supervise` without a timer per request.
            .header_read_timeout(None)
            .max_buf_size(HTTP1_BUFFER_MAX)
            .max_header_size(limits.header_bytes);
        if limits.headers != 100 {
            // hyper's own limit is 100 already; setting it costs an allocation per request.
            builder.max_headers(limits.headers);
        }
        let connection = builder.serve_connection(Transport::new(stream, Arc::clone(&activity)), service);
        let timeouts = &self.gateway.config().timeouts;
        let watch = Watch { activity: &activity, head_max: Some(timeouts.header), timeouts };
        self.supervise(std::pin::pin!(connection), http1::Connection::graceful_shutdown, watch).await;
    }

    async fn http2(&self, stream: TcpStream) {
        let limits = &self.gateway.config().limits;
        let activity = Activity::start();
        let calls = Arc::clone(&activity);
        let gateway = self.gateway.clone();
        let service =
            service_fn(move |request: Request<Incoming>| gateway.clone().answer(request, calls.begin()));
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(limits.http2_streams)
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(SEND_BUFFER_MAX)
            .max_local_error_reset_streams(LOCAL_RESETS_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(Transport::new(stream, Arc::clone(&activity)), service);
        let timeouts = &self.gateway.config().timeouts;
        let watch = Watch { activity: &activity, head_max: None, timeouts };
        self.supervise(std::pin::pin!(connection), http2::Connection::graceful_shutdown, watch).await;
    }

    /// Drives a connection until it ends, is idle for too long, or must stop.
    async fn supervise<C, E>(&self, mut connection: Pin<&mut C>, finish: fn(Pin<&mut C>), watch: Watch<'_>)
    where
        C: Future<Output = Result<(), E>>,
        E: std::fmt::Display,
    {
        let mut ticks = interval_at(Instant::now() + WATCH_EVERY, WATCH_EVERY);
        // Looks that a pause of the whole process made us miss say nothing of the client.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut finishing = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "client connection ended");
                    }
                    return;
                }
                () = self.abort.cancelled() => return,
                () = self.finish.cancelled(), if !finishing => {
                    finishing = true;
                    finish(connection.as_mut());
                }
                _ = ticks.tick() => match watch.look() {
                    Verdict::Fine => {}
                    Verdict::HeadTooSlow | Verdict::Stalled => return,
                    Verdict::Idle if finishing => return,
                    Verdict::Unread if finishing => {}
                    Verdict::Idle | Verdict::Unread => {
                        finishing = true;
                        finish(connection.as_mut());
                    }
                },
            }
        }
    }
}

/// What a connection's idleness is judged by.
#[derive(Debug)]
struct Watch<'a> {
    activity: &'a Activity,
    head_max: Option<Duration>,
    timeouts: &'a Timeouts,
}

impl Watch<'_> {
    fn look(&self) -> Verdict {
        self.activity.verdict(self.head_max, self.timeouts.idle)
    }
}

/// Looks at the first bytes without taking them; `None` if the client closed or failed.
async fn detect(stream: &TcpStream) -> Option<Spoken> {
    let mut seen = [0; PREFACE.len()];
    loop {
        let length = stream.peek(&mut seen).await.ok().filter(|length| *length > 0)?;
        let start = seen.get(..length)?;
        if !PREFACE.starts_with(start) {
            return Some(Spoken::Http1);
        }
        if start.len() == PREFACE.len() {
            return Some(Spoken::Http2);
        }
        // The same bytes would be seen again at once: give the client time to send the rest.
        sleep(PEEK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// There are as many of these as clients, idle ones included.
    #[test]
    fn a_connection_has_no_room_for_what_it_does_not_do() {
        let bytes = size_of_future(Connection::run);
        assert!(bytes <= 1536, "{bytes}");
    }
}
