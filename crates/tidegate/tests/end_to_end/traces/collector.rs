//! A collector of traces on a free port, which keeps what it is sent.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tokio::{net::TcpListener, task::JoinHandle};
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
    pub(super) address: SocketAddr,
    kept: Arc<Kept>,
    task: JoinHandle<()>,
}

struct Service(Arc<Kept>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        let key = request.metadata().get("x-key").map(|key| key.to_str().unwrap().to_owned());
        self.0.keys.lock().unwrap().extend(key);
        self.0.requests.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, kept) = (listener.local_addr().unwrap(), Arc::<Kept>::default());
        let service = TraceServiceServer::new(Service(Arc::clone(&kept)));
        let serve = Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        let task = tokio::spawn(async move { serve.await.unwrap() });
        Self { address, kept, task }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
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

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
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
