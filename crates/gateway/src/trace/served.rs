//! The span of a call as its client sees it, and those of its waits in the queue.

use std::{sync::Arc, time::Duration};

use ::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header, uri::Authority};
use opentelemetry::{
    KeyValue,
    trace::{Link, SpanKind, Status, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanLinks};
use pipeline::{
    chat::Usage,
    request::Timings,
    trace::{Context, Traced},
};
use tokio::time::Instant;
use tonic::Code;

use super::{
    Further as _, LINKS_MAX, Moment, Tracer, context::Inbound, new_trace, number, recorded, seconds, text,
};
use crate::{metrics::Surface, status::Situation};

/// Methods that are called by their name; others are `_OTHER`.
const METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::CONNECT,
    Method::OPTIONS,
    Method::TRACE,
    Method::PATCH,
];

/// What a call turned out to be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A path of this template.
    Route(&'static str),
    /// An operation of generative AI at a path.
    Operation { route: &'static str, name: &'static str },
    /// A gRPC method.
    Method(&'static str),
}

/// A call of which spans are recorded, until it ends.
#[derive(Debug)]
pub(crate) struct Served {
    tracer: Tracer,
    traced: Arc<Traced>,
    parent: Option<Inbound>,
    began: Moment,
    head: Arc<Head>,
    purpose: Option<Purpose>,
    /// The status that went out before the end was known.
    begun: Option<StatusCode>,
}

/// What a call says of itself before it is read.
#[derive(Debug)]
struct Head {
    method: Method,
    version: Version,
    authority: Option<Authority>,
    path: String,
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct End<'a> {
    pub(crate) surface: Surface,
    pub(crate) failed: Option<Situation>,
    pub(crate) id: &'a HeaderValue,
    pub(crate) model: Option<&'a str>,
    pub(crate) timings: Option<&'a Timings>,
    pub(crate) usage: Option<Usage>,
    pub(crate) ttft: Option<Duration>,
}

impl Served {
    /// Begins the spans of a call, if it is to be traced.
    pub(crate) fn begin<B>(tracer: &Tracer, request: &Request<B>) -> Option<Box<Self>> {
        let parent = Inbound::of(request.headers());
        let context = match &parent {
            Some(parent) => parent.context.with_new_span(),
            None => new_trace(),
        };
        if !tracer.shared.sampling.takes(context.trace, parent.as_ref()) {
            return None;
        }
        let head = Head {
            method: request.method().clone(),
            version: request.version(),
            authority: authority(request.uri(), request.headers()),
            path: request.uri().path().to_owned(),
        };
        Some(Box::new(Self {
            tracer: tracer.clone(),
            traced: Arc::new(Traced::new(context)),
            parent,
            began: Moment::now(),
            head: Arc::new(head),
            purpose: None,
            begun: None,
        }))
    }

    /// The span of one message of a stream of calls.
    pub(crate) fn message(&self) -> Box<Self> {
        let context = match &self.parent {
            Some(parent) => parent.context.with_new_span(),
            None => new_trace(),
        };
        Box::new(Self {
            tracer: self.tracer.clone(),
            traced: Arc::new(Traced::new(context)),
            parent: self.parent.clone(),
            began: Moment::now(),
            head: Arc::clone(&self.head),
            purpose: self.purpose,
            begun: None,
        })
    }

    pub(crate) fn is_for(&mut self, purpose: Purpose) {
        self.purpose = Some(purpose);
    }

    /// The answer goes out with `status`; how it ends is not known yet.
    pub(crate) fn begun_with(&mut self, status: StatusCode) {
        self.begun = Some(status);
    }

    /// What the pipeline notes its way in.
    pub(crate) fn traced(&self) -> Arc<Traced> {
        Arc::clone(&self.traced)
    }

    /// Whether the caller named a span that this call is part of.
    pub(crate) fn has_parent(&self) -> bool {
        self.parent.is_some()
    }

    /// Records the spans of a call that has ended.
    pub(crate) fn end(self, end: &End<'_>) {
        let now = Instant::now();
        let (context, parent) = (self.traced.context(), self.parent.as_ref());
        let notes = self.traced.notes();
        for wait in notes.waits {
            let times = (self.began.calendar(wait.since), self.began.calendar(wait.until.unwrap_or(now)));
            let ids = (context.with_new_span(), Some(context.span));
            self.tracer.send(self.tracer.span(ids, SpanKind::Internal, "queue", times));
        }
        let times = (self.began.calendar, self.began.calendar(now));
        let ids = (context, parent.map(|parent| parent.context.span));
        let mut span = self.tracer.span(ids, SpanKind::Server, self.name(end), times);
        if let Some(parent) = parent {
            span.parent_span_is_remote = true;
            span.span_context = recorded(context, parent.state.clone());
        }
        span.links = links(&notes.batches);
        span.attributes = Vec::with_capacity(16);
        self.describe_wire(end, &mut span);
        self.describe_generation(end, &mut span.attributes);
        describe(end, &mut span.attributes);
        self.tracer.send(span);
    }

    fn name(&self, end: &End<'_>) -> String {
        match (self.purpose, end.model) {
            (Some(Purpose::Operation { name, .. }), Some(model)) => format!("{name} {model}"),
            (Some(Purpose::Operation { name, .. }), None) => name.to_owned(),
            (Some(Purpose::Method(name)), _) => name.to_owned(),
            (Some(Purpose::Route(route)), _) => format!("{} {route}", self.method()),
            (None, _) if end.surface == Surface::V2Grpc => "grpc".to_owned(),
            (None, _) => self.method().to_owned(),
        }
    }

    fn method(&self) -> &str {
        if METHODS.contains(&self.head.method) { self.head.method.as_str() } else { "HTTP" }
    }

    fn describe_wire(&self, end: &End<'_>, span: &mut SpanData) {
        let attributes = &mut span.attributes;
        let failed = if end.surface == Surface::V2Grpc {
            self.describe_rpc(end, attributes)
        } else {
            self.describe_http(end, attributes)
        };
        if let Some(authority) = &self.head.authority {
            attributes.push(text("server.address", authority.host().to_owned()));
            attributes.extend(authority.port_u16().map(|port| number("server.port", port)));
        }
        if failed && let Some(situation) = end.failed {
            let reason = situation.row().reason;
            attributes.push(text("error.type", reason));
            span.status = Status::error(reason);
        }
    }

    /// Describes a call over HTTP; whether it counts as failed.
    fn describe_http(&self, end: &End<'_>, attributes: &mut Vec<KeyValue>) -> bool {
        let head = &self.head;
        let named = METHODS.contains(&head.method);
        let method = if named { head.method.as_str() } else { "_OTHER" };
        attributes.push(text("http.request.method", method.to_owned()));
        attributes.push(text("url.scheme", "http"));
        attributes.push(text("network.protocol.version", version(head.version)));
        if let Some(Purpose::Route(route) | Purpose::Operation { route, .. }) = self.purpose {
            // A path that is none of ours may hold anything.
            attributes.push(text("http.route", route));
            attributes.push(text("url.path", head.path.clone()));
        }
        let status = self.begun.or_else(|| match end.failed {
            None => Some(StatusCode::OK),
            // Nobody was there to be told.
            Some(Situation::ClientCancelled) => None,
            Some(situation) => Some(situation.http_status()),
        });
        attributes.extend(status.map(|status| number("http.response.status_code", status.as_u16())));
        let broke_off = self.begun.is_some() && end.failed != Some(Situation::ClientCancelled);
        end.failed.is_some() && (broke_off || status.is_some_and(|status| status.is_server_error()))
    }

    /// Describes a call over gRPC; whether it counts as failed.
    fn describe_rpc(&self, end: &End<'_>, attributes: &mut Vec<KeyValue>) -> bool {
        let method = match self.purpose {
            Some(Purpose::Method(method)) => method,
            _ => "_OTHER",
        };
        attributes.push(text("rpc.system.name", "grpc"));
        attributes.push(text("rpc.method", method));
        attributes.push(text("rpc.response.status_code", end.surface.code(end.failed)));
        let code = end.failed.map_or(Code::Ok, |situation| situation.row().grpc);
        matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        )
    }

    fn describe_generation(&self, end: &End<'_>, attributes: &mut Vec<KeyValue>) {
        let Some(Purpose::Operation { name, .. }) = self.purpose else { return };
        attributes.push(text("gen_ai.operation.name", name));
        // Which engine it is nobody tells; it is Tidegate that answers.
        attributes.push(text("gen_ai.provider.name", "tidegate"));
        attributes.extend(end.model.map(|model| text("gen_ai.request.model", model.to_owned())));
        attributes.push(KeyValue::new("gen_ai.request.stream", self.begun.is_some()));
        if let Some(usage) = end.usage {
            attributes.push(number("gen_ai.usage.input_tokens", usage.prompt_tokens));
            attributes.push(number("gen_ai.usage.output_tokens", usage.output_tokens));
        }
        attributes.extend(end.ttft.map(|ttft| seconds("gen_ai.response.time_to_first_chunk", ttft)));
    }
}

/// What the conventions have no word for.
fn describe(end: &End<'_>, attributes: &mut Vec<KeyValue>) {
    attributes.push(text("tidegate.request_id", end.id.to_str().unwrap_or_default().to_owned()));
    attributes.extend(end.model.map(|model| text("tidegate.model", model.to_owned())));
    let reason = end.failed.map_or("ok", |situation| situation.row().reason);
    attributes.push(text("tidegate.reason", reason));
    if let Some(timings) = end.timings {
        attributes.push(number("tidegate.batch.rows", timings.batch_rows));
        attributes.extend(timings.cold_start.map(|waited| seconds("tidegate.cold_start", waited)));
    }
}

/// Links to other spans, as many as there may be.
pub(super) fn links(to: &[Context]) -> SpanLinks {
    let mut links = SpanLinks::default();
    let linked = to.iter().take(LINKS_MAX);
    links.links = linked.map(|context| Link::with_context(recorded(*context, TraceState::NONE))).collect();
    links.dropped_count = u32::try_from(to.len().saturating_sub(LINKS_MAX)).unwrap_or(u32::MAX);
    links
}

fn authority(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    let host = || Authority::try_from(headers.get(header::HOST)?.as_bytes()).ok();
    uri.authority().cloned().or_else(host)
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}
