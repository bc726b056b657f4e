//! HTTP/1.1 connections to one model server, and the stack of those that are idle.
//!
//! A connection has no task of its own: the call that holds it drives it, so that a call costs no hop between
//! tasks and dropping the call closes the connection. What an idle connection hears is noticed when it is
//! used again.

use std::{
    error::Error as _,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::Context,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{Builder, Connection, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use pipeline::CallError;
use tokio::{net::TcpStream, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{dial::dial, gather::Gather};

/// Most bytes of an answer's head, and of one read.
const BUFFER_MAX: usize = 512 << 10;
const HEADERS_MAX: usize = 100;

/// The connections to one server.
#[derive(Debug)]
pub(super) struct Pool {
    address: SocketAddr,
    connect_timeout: Duration,
    idle: Arc<Idle>,
    _reaper: AbortOnDropHandle<()>,
}

impl Pool {
    /// A pool without connections. Must be made inside a runtime.
    pub(super) fn new(address: SocketAddr, connect_timeout: Duration, limits: IdleLimits) -> Self {
        let idle = Arc::new(Idle { limits, stack: Mutex::default() });
        let reaper = AbortOnDropHandle::new(tokio::spawn(reap(Arc::clone(&idle))));
        Self { address, connect_timeout, idle, _reaper: reaper }
    }

    /// Sends a request and collects the answer. The connection is used again if the answer ended well; not after
    /// an internal error: many servers close then, without a word in the answer, and the next call, perhaps of
    /// another client, would be lost.
    ///
    /// # Errors
    /// `NotSent`, `Reset`, `BadResponse`, `TooLarge`. Statuses are no errors here.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        limit: usize,
    ) -> Result<Response<Bytes>, CallError> {
        let (mut link, response) = self.first_answer(request).await?;
        let (head, body) = response.into_parts();
        let body = link.collect(body, limit).await?;
        if head.status != StatusCode::INTERNAL_SERVER_ERROR && link.settle().await {
            self.idle.push(link);
        }
        Ok(Response::from_parts(head, body))
    }

    /// Idle connections may have been closed by the server meanwhile. As long as the request provably was not
    /// sent, the next one is tried, and in the end a fresh one.
    async fn first_answer(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Box<Link>, Response<Incoming>), CallError> {
        loop {
            let reused = self.idle.pop();
            let fresh = reused.is_none();
            let mut link = match reused {
                Some(link) => link,
                None => Link::open(self.address, self.connect_timeout).await?,
            };
            let mut error = match link.send(request).await {
                Ok(response) => return Ok((link, response)),
                Err(error) => error,
            };
            request = match error.take_message() {
                Some(unsent) if !fresh => unsent,
                Some(_) => return Err(CallError::NotSent),
                None => return Err(of_hyper(&error.into_error())),
            };
        }
    }
}

/// How many connections may be idle, and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdleLimits {
    pub(super) connections: usize,
    pub(super) timeout: Duration,
}

/// Idle connections, the last used on top: the others may grow old.
#[derive(Debug)]
struct Idle {
    limits: IdleLimits,
    stack: Mutex<Vec<Parked>>,
}

#[derive(Debug)]
struct Parked {
    link: Box<Link>,
    since: Instant,
}

impl Idle {
    fn pop(&self) -> Option<Box<Link>> {
        let parked = self.stack.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        // An expired top means that all below are expired; the reaper closes them.
        (parked.since.elapsed() < self.limits.timeout).then_some(parked.link)
    }

    fn push(&self, link: Box<Link>) {
        let parked = Parked { link, since: Instant::now() };
        let mut stack = self.stack.lock().unwrap_or_else(PoisonError::into_inner);
        if stack.len() < self.limits.connections {
            stack.push(parked);
        }
    }

    /// Takes out what is expired, to be closed outside the lock.
    fn expired(&self) -> Vec<Parked> {
        let mut stack = self.stack.lock().unwrap_or_else(PoisonError::into_inner);
        let expired = stack.partition_point(|parked| parked.since.elapsed() >= self.limits.timeout);
        stack.drain(..expired).collect()
    }
}

/// Closes expired connections until it is aborted.
async fn reap(idle: Arc<Idle>) {
    let period = (idle.limits.timeout / 2).max(Duration::from_millis(10));
    loop {
        tokio::time::sleep(period).await;
        drop(idle.expired());
    }
}

/// One connection. It makes progress only while one of its methods is awaited.
#[derive(Debug)]
pub(super) struct Link {
    sender: SendRequest<Full<Bytes>>,
    /// Gone once the connection has ended.
    connection: Option<Connection<TokioIo<TcpStream>, Full<Bytes>>>,
}

impl Link {
    /// Connects.
    ///
    /// # Errors
    /// `NotSent`.
    pub(super) async fn open(address: SocketAddr, connect_timeout: Duration) -> Result<Box<Self>, CallError> {
        let stream = dial(address, connect_timeout).await?;
        let handshake = Builder::new()
            .max_buf_size(BUFFER_MAX)
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = handshake.map_err(|_error| CallError::NotSent)?;
        Ok(Box::new(Self { sender, connection: Some(connection) }))
    }

    /// Sends one request and collects its answer; for callers that do not use the connection again.
    ///
    /// # Errors
    /// As [`Pool::send`].
    pub(super) async fn send_only(
        mut self: Box<Self>,
        request: Request<Full<Bytes>>,
        limit: usize,
    ) -> Result<Response<Bytes>, CallError> {
        let response = self.send(request).await.map_err(|mut error| match error.take_message() {
            Some(_) => CallError::NotSent,
            None => of_hyper(&error.into_error()),
        })?;
        let (head, body) = response.into_parts();
        Ok(Response::from_parts(head, self.collect(body, limit).await?))
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Box<TrySendError<Request<Full<Bytes>>>>> {
        let mut response = pin!(self.sender.try_send_request(request));
        let answered = std::future::poll_fn(|context| {
            drive(&mut self.connection, context);
            response.as_mut().poll(context)
        });
        answered.await.map_err(Box::new)
    }

    async fn collect(&mut self, mut body: Incoming, limit: usize) -> Result<Bytes, CallError> {
        let mut gather = Gather::new(body.size_hint().lower(), limit)?;
        while !body.is_end_stream() {
            let frame = std::future::poll_fn(|context| {
                let frame = Pin::new(&mut body).poll_frame(context);
                if frame.is_ready() {
                    return frame;
                }
                drive(&mut self.connection, context);
                Pin::new(&mut body).poll_frame(context)
            });
            let Some(frame) = frame.await else { break };
            // Trailers of HTTP/1 mean nothing to us.
            if let Ok(data) = frame.map_err(|error| of_hyper(&error))?.into_data() {
                gather.push(data)?;
            }
        }
        Ok(gather.finish())
    }

    /// Lets the connection see the end of the answer. Whether it can be used again.
    async fn settle(&mut self) -> bool {
        std::future::poll_fn(|context| {
            drive(&mut self.connection, context);
            std::task::Poll::Ready(())
        })
        .await;
        self.connection.is_some() && self.sender.is_ready()
    }
}

/// Polls the connection. Its error is not looked at: the call that it concerns is given the same one.
fn drive(connection: &mut Option<Connection<TokioIo<TcpStream>, Full<Bytes>>>, context: &mut Context<'_>) {
    let ended = connection.as_mut().is_some_and(|connection| Pin::new(connection).poll(context).is_ready());
    if ended {
        *connection = None;
    }
}

/// What an error after sending means.
fn of_hyper(error: &hyper::Error) -> CallError {
    let bad_framing = || {
        let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
        matches!(cause, Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
    };
    if error.is_parse() || bad_framing() { CallError::BadResponse } else { CallError::Reset }
}

#[cfg(test)]
mod tests;
