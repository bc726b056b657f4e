//! Connections to the server under load, straight on hyper: a bounded HTTP/1.1 pool, or a few HTTP/2 connections.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::target::Places;

/// Large enough that flow control never shapes what is measured.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// The body of every request: one piece, encoded before the run.
pub(crate) type Body = Full<Bytes>;

/// Why no response head came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("cannot connect: {0}")]
    Connect(#[source] std::io::Error),
    #[error("the connection broke off: {0}")]
    BrokenOff(#[from] hyper::Error),
}

/// The HTTP version spoken on every connection of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    Http1,
    /// Prior knowledge, without TLS.
    Http2,
}

/// All connections of one shard.
#[derive(Debug)]
pub(crate) enum Pool {
    Http1(Http1Pool),
    Http2(Http2Pool),
}

impl Pool {
    pub(crate) fn new(version: HttpVersion, places: Places, connections: usize) -> Self {
        let dialer = Dialer { places, opened: AtomicU64::new(0) };
        match version {
            HttpVersion::Http1 => Self::Http1(Http1Pool {
                dialer,
                idle: Mutex::new(Vec::with_capacity(connections)),
                slots: Arc::new(Semaphore::new(connections)),
            }),
            HttpVersion::Http2 => Self::Http2(Http2Pool {
                dialer,
                connections: (0..connections).map(|_| tokio::sync::Mutex::new(None)).collect(),
                next: AtomicUsize::new(0),
            }),
        }
    }

    /// Connections opened so far.
    pub(crate) fn opened(&self) -> u64 {
        match self {
            Self::Http1(pool) => pool.dialer.opened.load(Ordering::Relaxed),
            Self::Http2(pool) => pool.dialer.opened.load(Ordering::Relaxed),
        }
    }

    /// Sends on a free connection, waiting for one if all are busy. The lease is to be kept until the response
    /// body has ended.
    pub(crate) async fn send(
        &self,
        request: Request<Body>,
    ) -> Result<(Response<Incoming>, Lease<'_>), SendError> {
        match self {
            Self::Http1(pool) => pool.send(request).await,
            Self::Http2(pool) => Ok((pool.send(request).await?, Lease::Shared)),
        }
    }
}

/// A connection in use.
#[derive(Debug)]
pub(crate) enum Lease<'a> {
    /// Dropped without [`Lease::give_back`], the connection is closed.
    Http1 {
        pool: &'a Http1Pool,
        sender: http1::SendRequest<Body>,
        slot: OwnedSemaphorePermit,
    },
    Shared,
}

impl Lease<'_> {
    /// The response body has ended: the connection may be used again.
    pub(crate) fn give_back(self) {
        if let Self::Http1 { pool, sender, slot } = self {
            pool.idle.lock().expect("nothing panics while it holds this lock").push(sender);
            drop(slot);
        }
    }
}

#[derive(Debug)]
struct Dialer {
    places: Places,
    opened: AtomicU64,
}

impl Dialer {
    async fn connect(&self) -> Result<TokioIo<TcpStream>, SendError> {
        let address = self.places.next().map_err(SendError::Connect)?;
        let stream = TcpStream::connect(address).await.map_err(SendError::Connect)?;
        stream.set_nodelay(true).map_err(SendError::Connect)?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(TokioIo::new(stream))
    }
}

/// Keep-alive connections, the most recently used first, at most as many as there are slots.
#[derive(Debug)]
pub(crate) struct Http1Pool {
    dialer: Dialer,
    idle: Mutex<Vec<http1::SendRequest<Body>>>,
    slots: Arc<Semaphore>,
}

impl Http1Pool {
    async fn send(&self, mut request: Request<Body>) -> Result<(Response<Incoming>, Lease<'_>), SendError> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.expect("the semaphore is never closed");
        // A kept connection may have been closed by the server while idle. What hyper hands back was not sent, so
        // it goes to the next connection; a fresh one is tried once.
        while let Some(mut sender) = self.take_idle() {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, Lease::Http1 { pool: self, sender, slot })),
                Err(mut failure) => match failure.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(failure.into_error().into()),
                },
            }
        }
        let (mut sender, connection) = http1::handshake(self.dialer.connect().await?).await?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        Ok((response, Lease::Http1 { pool: self, sender, slot }))
    }

    fn take_idle(&self) -> Option<http1::SendRequest<Body>> {
        self.idle.lock().expect("nothing panics while it holds this lock").pop()
    }
}

/// A fixed number of HTTP/2 connections, used in turn and opened when first needed.
#[derive(Debug)]
pub(crate) struct Http2Pool {
    dialer: Dialer,
    connections: Vec<tokio::sync::Mutex<Option<http2::SendRequest<Body>>>>,
    next: AtomicUsize,
}

impl Http2Pool {
    /// What hyper hands back was not sent, since the server is about to close the connection: it goes to the next
    /// one, as gRPC clients do.
    async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, SendError> {
        for _ in 0..self.connections.len() {
            match self.sender().await?.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut failure) => match failure.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(failure.into_error().into()),
                },
            }
        }
        Ok(self.sender().await?.send_request(request).await?)
    }

    async fn sender(&self) -> Result<http2::SendRequest<Body>, SendError> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        let connection = self.connections.get(turn).expect("the turn is below the number of connections");
        let mut slot = connection.lock().await;
        if let Some(sender) = slot.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(self.dialer.connect().await?)
            .await?;
        tokio::spawn(connection);
        Ok(slot.insert(sender).clone())
    }
}
