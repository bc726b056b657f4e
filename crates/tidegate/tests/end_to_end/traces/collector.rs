//! A collector of traces on free ports, one for each protocol, which keeps what it is sent.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode as HttpStatus;
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use crate::process::until;

#[derive(Debug, Default)]
struct Kept {
    requests: Mutex<Vec<ExportTraceServiceRequest>>,
    keys: Mutex<Vec<String>>,
    calls: AtomicUsize,
}

/// A collector; it ends with this handle.
#[derive(Debug)]
pub(super) struct Collector {
    grpc: SocketAddr,
    http: SocketAddr,
    kept: Arc<Kept>,
    _tasks: JoinSet<()>,
}

impl Kept {
    fn keep(&self, key: Option<String>, request: ExportTraceServiceRequest) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.keys.lock().unwrap().extend(key);
        self.requests.lock().unwrap().push(request);
    }
}

struct Service(Arc<Kept>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let key = request.metadata().get("x-key").map(|key| key.to_str().unwrap().to_owned());
        self.0.keep(key, request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub(super) async fn start() -> Self {
        let kept = Arc::<Kept>::default();
        let mut tasks = JoinSet::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let grpc = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(Service(Arc::clone(&kept)));
        let serve = Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        tasks.spawn(async move { serve.await.unwrap() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = listener.local_addr().unwrap();
        tasks.spawn(serve_http(listener, Arc::clone(&kept)));
        Self { grpc, http, kept, _tasks: tasks }
    }

    /// Where a protocol is spoken, by the name that the variables have for it.
    pub(super) fn url(&self, protocol: &str) -> String {
        let address = if protocol == "grpc" { self.grpc } else { self.http };
        format!("http://{address}")
    }

    pub(super) fn calls(&self) -> usize {
        self.kept.calls.load(Ordering::Relaxed)
    }

    /// The headers of that name that came with spans.
    pub(super) fn keys(&self) -> Vec<String> {
        self.kept.keys.lock().unwrap().clone()
    }

    /// What the spans were said to be of.
    pub(super) fn resource(&self) -> Vec<KeyValue> {
        let requests = self.kept.requests.lock().unwrap();
        requests[0].resource_spans[0].resource.clone().unwrap().attributes
    }

    pub(super) fn spans(&self) -> Spans {
        let requests = self.kept.requests.lock().unwrap();
        let scopes = requests.iter().flat_map(|request| &request.resource_spans);
        let scopes = scopes.flat_map(|resource| &resource.scope_spans);
        Spans(scopes.flat_map(|scope| scope.spans.clone()).collect())
    }

    /// Waits until there are spans enough for `look`.
    pub(super) async fn until<T>(&self, what: &str, look: impl Fn(&Spans) -> Option<T>) -> T {
        until(what, async || look(&self.spans())).await
    }
}

async fn serve_http(listener: TcpListener, kept: Arc<Kept>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let kept = Arc::clone(&kept);
        let service = service_fn(move |request| take(Arc::clone(&kept), request));
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn take(
    kept: Arc<Kept>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let mut response = http::Response::new(Full::default());
    let is_protobuf = header("content-type").as_deref() == Some("application/x-protobuf");
    match ExportTraceServiceRequest::decode(body) {
        Ok(spans) if is_protobuf && head.uri.path() == "/v1/traces" => kept.keep(header("x-key"), spans),
        _ => *response.status_mut() = HttpStatus::BAD_REQUEST,
    }
    Ok(response)
}

#[derive(Clone, Debug)]
pub(super) struct Spans(pub(super) Vec<Span>);

impl Spans {
    pub(super) fn of_kind(&self, kind: SpanKind) -> impl Iterator<Item = &Span> {
        self.0.iter().filter(move |span| span.kind == kind as i32)
    }

    pub(super) fn named(&self, name: &str) -> Option<&Span> {
        self.0.iter().find(|span| span.name == name)
    }

    /// Those whose parent is `parent`.
    pub(super) fn below(&self, parent: &Span) -> Vec<&Span> {
        let is_child =
            |span: &&Span| span.parent_span_id == parent.span_id && span.trace_id == parent.trace_id;
        self.0.iter().filter(is_child).collect()
    }

    /// Everything in them that is text.
    pub(super) fn text(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// Reads attributes.
pub(super) trait Attributes {
    fn value(&self, key: &str) -> Option<Value>;

    fn string(&self, key: &str) -> String {
        match self.value(key) {
            Some(Value::StringValue(text)) => text,
            other => panic!("{key} is {other:?}"),
        }
    }

    fn integer(&self, key: &str) -> i64 {
        match self.value(key) {
            Some(Value::IntValue(number)) => number,
            other => panic!("{key} is {other:?}"),
        }
    }

    fn double(&self, key: &str) -> f64 {
        match self.value(key) {
            Some(Value::DoubleValue(number)) => number,
            other => panic!("{key} is {other:?}"),
        }
    }
}

impl Attributes for [KeyValue] {
    fn value(&self, key: &str) -> Option<Value> {
        self.iter().find(|pair| pair.key == key)?.value.clone()?.value
    }
}

impl Attributes for Span {
    fn value(&self, key: &str) -> Option<Value> {
        self.attributes.as_slice().value(key)
    }
}

pub(super) fn lasted(span: &Span) -> Duration {
    Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano)
}

pub(super) fn failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32)
}
