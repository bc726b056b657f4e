//! One client connection: tells HTTP/1.1 from HTTP/2 by its first bytes, then hands each call to its server.

use std::{error::Error, io, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body as HttpBody, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
/// Also how long an HTTP/1.1 connection may be idle: longer than clients keep one in their pools.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(75);
const HTTP1_BUFFER_BYTES: usize = 64 << 10;
const HTTP1_HEADERS_MAX: usize = 100;
const HTTP2_HEADERS_BYTES_MAX: u32 = 32 << 10;
const HTTP2_STREAM_WINDOW_BYTES: u32 = 2 << 20;
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);

/// What answers the calls of a port.
pub(crate) trait Calls: Clone + Send + 'static {
    type Body: HttpBody<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;
    /// Why a connection is broken off in place of an answer.
    type Error: Into<Box<dyn Error + Send + Sync>> + Send;
    /// Calls at a time on one HTTP/2 connection.
    const HTTP2_STREAMS_MAX: u32 = 256;

    /// Answers one call.
    fn answer(
        self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Self::Body>, Self::Error>> + Send;

    /// Cancelled once connections are to end after the calls they have.
    fn stopping(&self) -> &CancellationToken;
}

/// Serves one connection until the client leaves, or the server stops and the calls in flight are answered.
pub(crate) async fn serve(mut stream: TcpStream, calls: impl Calls) {
    // Small answers must not wait for an acknowledgement; a socket that refuses the option is about to fail.
    let _ = stream.set_nodelay(true);
    // Who has not said anything yet has nothing in flight.
    let sniffed = tokio::select! {
        sniffed = tokio::time::timeout(FIRST_BYTES_TIMEOUT, sniff(&mut stream)) => sniffed,
        () = calls.stopping().cancelled() => return,
    };
    let Ok(Ok((protocol, first))) = sniffed else {
        return;
    };
    let (reader, writer) = stream.into_split();
    let io = TokioIo::new(tokio::io::join(io::Cursor::new(first).chain(reader), writer));
    let served = match protocol {
        Protocol::Http1 => serve_http1(io, calls).await,
        Protocol::Http2 => serve_http2(io, calls).await,
    };
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}

enum Protocol {
    Http1,
    Http2,
}

/// Reads until the bytes can no longer be, or surely are, the preface of HTTP/2; returns what was read.
async fn sniff(stream: &mut TcpStream) -> io::Result<(Protocol, Vec<u8>)> {
    let mut seen = Vec::with_capacity(PREFACE.len());
    loop {
        let missing = PREFACE.len() - seen.len();
        if missing == 0 {
            return Ok((Protocol::Http2, seen));
        }
        if stream.take(missing as u64).read_buf(&mut seen).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !PREFACE.starts_with(&seen) {
            return Ok((Protocol::Http1, seen));
        }
    }
}

async fn serve_http1<T>(io: TokioIo<T>, calls: impl Calls) -> hyper::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let stopping = calls.stopping().clone();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .max_buf_size(HTTP1_BUFFER_BYTES)
        .max_headers(HTTP1_HEADERS_MAX)
        .serve_connection(io, service_fn(move |request| calls.clone().answer(request)));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stopping.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn serve_http2<T, C>(io: TokioIo<T>, calls: C) -> hyper::Result<()>
where
    C: Calls,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stopping = calls.stopping().clone();
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(C::HTTP2_STREAMS_MAX)
        .max_header_list_size(HTTP2_HEADERS_BYTES_MAX)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT)
        .serve_connection(io, service_fn(move |request| calls.clone().answer(request)));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stopping.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    /// What a server makes of `parts`, each sent once the one before it was read.
    async fn sniffed(parts: &[&'static [u8]]) -> io::Result<(Protocol, Vec<u8>)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let mut sniffing = std::pin::pin!(sniff(&mut server));
        for part in parts {
            client.write_all(part).await.unwrap();
            // Lets the reader have this part alone, as far as the kernel allows.
            tokio::select! {
                biased;
                done = sniffing.as_mut() => return done,
                () = tokio::task::yield_now() => {}
            }
        }
        drop(client);
        sniffing.await
    }

    #[tokio::test]
    async fn the_protocol_is_known_by_its_first_bytes_however_they_arrive() {
        let http1: [&[&'static [u8]]; 3] = [
            &[b"GET / HTTP/1.1\r\n"],
            &[b"P", b"OST / HTTP/1.1\r\n"],
            &[b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n"],
        ];
        for parts in http1 {
            let (protocol, first) = sniffed(parts).await.unwrap();
            assert!(matches!(protocol, Protocol::Http1), "{parts:?}");
            assert!(!first.is_empty() && parts.concat().starts_with(&first), "{parts:?}");
        }
        let http2: [&[&'static [u8]]; 2] =
            [&[PREFACE, b"frames"], &[b"P", b"RI * HTTP", b"/2.0\r\n\r\nSM\r\n\r\nframes"]];
        for parts in http2 {
            let (protocol, first) = sniffed(parts).await.unwrap();
            assert!(matches!(protocol, Protocol::Http2), "{parts:?}");
            assert_eq!(first, PREFACE, "{parts:?}");
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_before_it_says_what_it_speaks_is_dropped() {
        assert!(sniffed(&[b"PRI"]).await.is_err());
        assert!(sniffed(&[]).await.is_err());
    }
}
