//! The span of a call to a model server, and that of the batch where it answers several requests.

use std::{
    borrow::Cow,
    collections::HashSet,
    net::SocketAddr,
    pin::Pin,
    task::{Context as TaskContext, Poll},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use opentelemetry::{
    KeyValue,
    trace::{SpanKind, Status},
};
use pipeline::{
    CallError,
    replica::Call,
    request::{Payload, Reply, StreamReply},
    trace::Context,
};
use tokio::time::Instant;

use super::{
    Further as _, Moment, Tracer,
    context::{TRACEPARENT, TRACESTATE, traceparent},
    new_trace, number,
    served::links,
    text,
};

/// What is called at a model server.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// A path, and what paths like it have in common.
    Http { path: String, template: Cow<'static, str> },
    /// A gRPC method, without a slash before it.
    Grpc { method: String },
}

/// A call that was sent to a model server, until its answer has ended.
#[derive(Debug)]
pub(crate) struct Sent {
    tracer: Tracer,
    began: Moment,
    context: Context,
    /// The span of the request, or that of the batch.
    parent: u64,
    batch: Option<Batch>,
    address: SocketAddr,
    target: Target,
    end: Option<End>,
}

/// Several requests that are answered by one call.
#[derive(Debug)]
struct Batch {
    context: Context,
    model: String,
    requests: usize,
    rows: Option<u64>,
    members: Vec<Context>,
}

#[derive(Clone, Copy, Debug)]
enum End {
    /// With a status of HTTP.
    Answered(u16),
    Failed(&'static str),
}

impl Sent {
    /// Begins the spans of a call, if one of its requests is traced, and tells the model server of them.
    pub(crate) fn begin(
        tracer: &Tracer,
        call: &mut Call,
        (address, target): (SocketAddr, Target),
        model: &str,
    ) -> Option<Self> {
        let first = call.traced.first()?.context();
        let (parent, batch) = if call.requests > 1 {
            let batch = Batch::of(call, model);
            for member in &call.traced {
                member.merged_into(batch.context);
            }
            // What it says is of the trace of one member.
            call.trace.remove(&TRACESTATE);
            (batch.context, Some(batch))
        } else {
            (first, None)
        };
        let context = parent.with_new_span();
        call.trace.insert(TRACEPARENT, traceparent(context));
        let (tracer, began) = (tracer.clone(), Moment::now());
        Some(Self { tracer, began, context, parent: parent.span, batch, address, target, end: None })
    }

    /// The call came to `result`. A streamed answer has not ended until its last piece was handed on.
    pub(crate) fn came_to(mut self, result: Result<Reply, CallError>) -> Result<Reply, CallError> {
        match result {
            Ok(Reply::Stream(StreamReply { headers, first, rest })) => {
                // One that is dropped before its end was given up by the client, which the call's own span says.
                self.end = Some(End::Answered(200));
                let rest = Watched { rest, sent: Some(self) }.boxed();
                Ok(Reply::Stream(StreamReply { headers, first, rest }))
            }
            Ok(reply) => {
                let status = match &reply {
                    Reply::Opaque(opaque) => opaque.status.as_u16(),
                    Reply::Tensors(_) | Reply::Stream(_) => 200,
                };
                self.end = Some(End::Answered(status));
                Ok(reply)
            }
            Err(error) => {
                self.end = Some(End::Failed(error.cause()));
                Err(error)
            }
        }
    }

    fn record(&self) {
        let times = (self.began.calendar, self.began.calendar(Instant::now()));
        let failed = match self.end {
            Some(End::Answered(_)) => None,
            Some(End::Failed(cause)) => Some(cause),
            None => Some("cancelled"),
        };
        let name = match &self.target {
            Target::Http { template, .. } => format!("POST {template}"),
            Target::Grpc { method } => method.clone(),
        };
        let ids = (self.context, Some(self.parent));
        let mut span = self.tracer.span(ids, SpanKind::Client, name, times);
        span.attributes = self.attributes();
        if let Some(cause) = failed {
            span.attributes.push(text("error.type", cause));
            span.status = Status::error(cause);
        }
        self.tracer.send(span);
        if let Some(batch) = &self.batch {
            let name = format!("batch {}", batch.model);
            let mut span = self.tracer.span((batch.context, None), SpanKind::Internal, name, times);
            span.links = links(&batch.members);
            span.attributes = batch.attributes();
            if let Some(cause) = failed {
                span.attributes.push(text("error.type", cause));
                span.status = Status::error(cause);
            }
            self.tracer.send(span);
        }
    }

    fn attributes(&self) -> Vec<KeyValue> {
        let mut attributes = Vec::with_capacity(8);
        match &self.target {
            Target::Http { path, template } => {
                attributes.push(text("http.request.method", "POST"));
                attributes.push(text("url.full", format!("http://{}{path}", self.address)));
                attributes.push(text("url.template", template.clone()));
                if let Some(End::Answered(status)) = self.end {
                    attributes.push(number("http.response.status_code", status));
                }
            }
            Target::Grpc { method } => {
                attributes.push(text("rpc.system.name", "grpc"));
                attributes.push(text("rpc.method", method.clone()));
                if let Some(End::Answered(_)) = self.end {
                    attributes.push(text("rpc.response.status_code", "OK"));
                }
            }
        }
        attributes.push(text("server.address", self.address.ip().to_string()));
        attributes.push(number("server.port", self.address.port()));
        attributes
    }
}

impl Drop for Sent {
    /// One that has not come to anything was cancelled.
    fn drop(&mut self) {
        self.record();
    }
}

impl Batch {
    fn of(call: &Call, model: &str) -> Self {
        // A request that was cut in parts may be there more than once.
        let mut seen = HashSet::with_capacity(call.traced.len());
        let members = call.traced.iter().map(|traced| traced.context());
        let members = members.filter(|context| seen.insert(*context)).collect();
        let rows = match &call.payload {
            Payload::Tensors(inference) => inference.rows(),
            Payload::Opaque(_) => None,
        };
        Self { context: new_trace(), model: model.to_owned(), requests: call.requests, rows, members }
    }

    fn attributes(&self) -> Vec<KeyValue> {
        let mut attributes = vec![
            text("tidegate.model", self.model.clone()),
            number("tidegate.batch.requests", u64::try_from(self.requests).unwrap_or(u64::MAX)),
        ];
        attributes.extend(self.rows.map(|rows| number("tidegate.batch.rows", rows)));
        attributes
    }
}

/// The pieces of an answer, and the span that ends with them.
struct Watched {
    rest: BoxStream<'static, Result<Bytes, CallError>>,
    sent: Option<Sent>,
}

impl Stream for Watched {
    type Item = Result<Bytes, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.rest.poll_next_unpin(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_))))
            && let Some(mut sent) = self.sent.take()
            && let Poll::Ready(Some(Err(error))) = &polled
        {
            sent.end = Some(End::Failed(error.cause()));
        }
        polled
    }
}

#[cfg(test)]
mod tests;
