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
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, stream};
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
        let (head, body) = self.open(request).await?.into_parts();
        let body = body.collect(limit).await?;
        Ok(Response::from_parts(head, body))
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// As [`Pool::send`], without `TooLarge`.
    pub(super) async fn open(&self, request: Request<Full<Bytes>>) -> Result<Response<Unread>, CallError> {
        let (link, response) = self.first_answer(request).await?;
        let may_be_reused = response.status() != StatusCode::INTERNAL_SERVER_ERROR;
        let pool = may_be_reused.then(|| Arc::clone(&self.idle));
        Ok(response.map(|body| Unread { link, body, pool }))
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

/// The body of an answer that is still on its connection. Dropping it closes that, which tells the server to stop.
#[derive(Debug)]
pub(super) struct Unread {
    link: Box<Link>,
    body: Incoming,
    /// Where the connection goes once the body has ended, if it may be used again.
    pool: Option<Arc<Idle>>,
}

impl Unread {
    /// All of it.
    ///
    /// # Errors
    /// `Reset`, `BadResponse`, and `TooLarge` beyond `limit` bytes.
    pub(super) async fn collect(mut self, limit: usize) -> Result<Bytes, CallError> {
        let mut gather = Gather::new(self.body.size_hint().lower(), limit)?;
        while let Some(piece) = std::future::poll_fn(|context| self.poll_piece(context)).await {
            gather.push(piece?)?;
        }
        self.give_back();
        Ok(gather.finish())
    }

    /// Piece by piece, as they come.
    pub(super) fn pieces(self) -> impl Stream<Item = Result<Bytes, CallError>> + Send + 'static {
        let mut unread = Some(self);
        stream::poll_fn(move |context| {
            let Some(body) = &mut unread else { return Poll::Ready(None) };
            let piece = ready!(body.poll_piece(context));
            if !matches!(piece, Some(Ok(_)))
                && let Some(ended) = unread.take().filter(|_| piece.is_none())
            {
                ended.give_back();
            }
            Poll::Ready(piece)
        })
    }

    /// The next data; `None` at the end, up to which the connection has been driven then.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, CallError>>> {
        while !self.body.is_end_stream() {
            let mut frame = Pin::new(&mut self.body).poll_frame(&mut unheard());
            if frame.is_pending() {
                drive(&mut self.link.connection, context);
                frame = Pin::new(&mut self.body).poll_frame(&mut unheard());
            }
            match ready!(frame) {
                // Trailers of HTTP/1 mean nothing to us.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(of_hyper(&error)))),
                None => break,
            }
        }
        // Lets the connection see the end of the answer.
        drive(&mut self.link.connection, context);
        Poll::Ready(None)
    }

    /// The connection may have another call, if it is fit for one.
    fn give_back(self) {
        let Self { link, pool, .. } = self;
        if link.connection.is_some()
            && link.sender.is_ready()
            && let Some(pool) = pool
        {
            pool.push(link);
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
        let body = Unread { link: self, body, pool: None };
        Ok(Response::from_parts(head, body.collect(limit).await?))
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Box<TrySendError<Request<Full<Bytes>>>>> {
        let mut response = pin!(self.sender.try_send_request(request));
        let answered = std::future::poll_fn(|context| {
            drive(&mut self.connection, context);
            response.as_mut().poll(&mut unheard())
        });
        answered.await.map_err(Box::new)
    }
}

/// For what only [`drive`] moves on, and is polled right after it: its waker would wake the very task that runs, which
/// the scheduler takes for a yield, and answers by waking another thread.
fn unheard() -> Context<'static> {
    Context::from_waker(Waker::noop())
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
