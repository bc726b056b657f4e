//! Servers for tests that do exactly what they are told, also when that is wrong, and calls to them.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use pipeline::{
    CallError,
    replica::{Call, Upstream},
    request::{Inference, Opaque, OpaqueReply, Outcome, Payload, Reply, Wire},
    tensor::{DataType, Tensor},
};
use prost::Message;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt as _;

use super::{Config, Protocol, Server};

/// Longest that any test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A listening server; it ends with this handle.
#[derive(Debug)]
pub(super) struct Scripted {
    pub(super) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Scripted {
    /// Connections accepted so far.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    pub(super) fn server(&self, protocol: Protocol) -> Arc<Server> {
        Arc::new(Server::new(self.address, &Config::new(protocol, "m".into())))
    }

    pub(super) fn upstream(&self, protocol: Protocol) -> Upstream {
        self.server(protocol).upstream()
    }
}

/// Listens, and serves every connection by `serve`, which is told how many came before it.
pub(super) async fn listen<F>(serve: impl Fn(TcpStream, usize) -> F + Send + 'static) -> Scripted
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let task = tokio::spawn(async move {
        let mut serving = JoinSet::new();
        loop {
            let (stream, _peer) = listener.accept().await.unwrap();
            serving.spawn(serve(stream, counter.fetch_add(1, SeqCst)));
        }
    });
    Scripted { address, connections, _task: AbortOnDropHandle::new(task) }
}

/// An address that refuses connections.
pub(super) async fn nobody() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

/// Answers every HTTP/1 request with what `answer` makes of it.
pub(super) async fn http1(answer: impl Fn(&Received) -> String + Clone + Send + Sync + 'static) -> Scripted {
    listen(move |mut stream, _| {
        let answer = answer.clone();
        async move {
            while let Some(received) = receive(&mut stream).await {
                let written = stream.write_all(answer(&received).as_bytes()).await;
                if written.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// A complete HTTP/1 answer.
pub(super) fn http1_answer(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

/// A request as it came over the wire.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) line: String,
    /// By lower-case name; a repeated header is joined by commas.
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
}

/// Reads one HTTP/1 request with a length; `None` if the peer closed.
pub(super) async fn receive(stream: &mut TcpStream) -> Option<Received> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let line = lines.next()?.to_owned();
    let mut headers = HashMap::<String, String>::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let value = value.to_owned();
        headers
            .entry(name.to_ascii_lowercase())
            .and_modify(|known| *known = format!("{known},{value}"))
            .or_insert(value);
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = bytes.split_off(head_end + 4);
    while body.len() < length {
        if stream.read_buf(&mut body).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    Some(Received { line, headers, body })
}

/// Waits until the peer has closed the connection.
pub(super) async fn closed(stream: &mut TcpStream) {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await.unwrap_or(0) > 0 {}
}

/// Answers every HTTP/2 request of every connection by `answer`.
pub(super) async fn http2<F>(
    answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + 'static,
) -> Scripted
where
    F: Future<Output = ()> + Send + 'static,
{
    listen(move |stream, _| {
        let answer = answer.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let mut calls = JoinSet::new();
            while let Some(Ok((request, respond))) = connection.accept().await {
                calls.spawn(answer(request, respond));
            }
        }
    })
    .await
}

/// The head of a gRPC answer.
pub(super) fn grpc_head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

/// Trailers with a status.
pub(super) fn grpc_status(code: &str, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_str(code).unwrap());
    trailers.insert("grpc-message", HeaderValue::from_str(message).unwrap());
    trailers
}

pub(super) fn frame(message: &impl Message) -> Bytes {
    super::frame::message(message).unwrap().concat().into()
}

/// Answers with `frame` as it is, and a status.
pub(super) fn grpc_answer(mut respond: SendResponse<Bytes>, frame: Bytes, trailers: HeaderMap) {
    let mut stream = respond.send_response(grpc_head(), false).unwrap();
    stream.send_data(frame, false).unwrap();
    stream.send_trailers(trailers).unwrap();
}

/// The message of a gRPC request.
pub(super) async fn grpc_message(request: Request<RecvStream>) -> Bytes {
    let mut body = request.into_body();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        bytes.extend_from_slice(&chunk);
    }
    bytes.freeze().slice(5..)
}

/// What must happen, in bounded time.
pub(super) async fn within<T>(happens: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, happens).await.expect("it takes too long")
}

/// A call that has time enough.
pub(super) fn call(payload: Payload) -> Call {
    let mut trace = HeaderMap::new();
    trace.insert("x-request-id", HeaderValue::from_static("r1"));
    let deadline = Instant::now() + PATIENCE;
    Call { payload, deadline, ends: deadline, trace, requests: 1, traced: Vec::new() }
}

pub(super) fn http_payload(body: &'static str) -> Payload {
    opaque(
        Wire::Http,
        "/v2/models/m/infer",
        &[("content-type", "application/json")],
        Bytes::from_static(body.as_bytes()),
    )
}

pub(super) fn opaque(
    wire: Wire,
    path: &'static str,
    headers: &[(&'static str, &'static str)],
    body: Bytes,
) -> Payload {
    let headers = headers
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect();
    let path = http::uri::PathAndQuery::from_static(path);
    Payload::Opaque(Opaque { wire, path, headers, body, streamed: false })
}

/// Two rows of one byte each.
pub(super) fn tensors() -> Payload {
    let input = Tensor::new("x", DataType::Uint8, vec![2, 1], Bytes::from_static(&[1, 2]));
    Payload::Tensors(Inference { inputs: vec![input], ..Inference::default() })
}

pub(super) async fn send(upstream: &Upstream, payload: Payload) -> Result<Reply, CallError> {
    within(upstream.clone().oneshot(call(payload))).await
}

pub(super) async fn send_opaque(upstream: &Upstream, payload: Payload) -> Result<OpaqueReply, CallError> {
    send(upstream, payload).await.map(|reply| match reply {
        Reply::Opaque(reply) => reply,
        Reply::Stream(reply) => panic!("a streamed answer: {reply:?}"),
        Reply::Tensors(outcome) => panic!("an answer in tensors: {outcome:?}"),
    })
}

pub(super) async fn send_tensors(upstream: &Upstream) -> Result<Outcome, CallError> {
    send(upstream, tensors()).await.map(|reply| match reply {
        Reply::Stream(reply) => panic!("a streamed answer: {reply:?}"),
        Reply::Tensors(outcome) => outcome,
        Reply::Opaque(reply) => panic!("an opaque answer: {reply:?}"),
    })
}
