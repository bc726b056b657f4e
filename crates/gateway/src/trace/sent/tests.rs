use std::{sync::Arc, time::Duration};

use futures_util::stream;
use http::{HeaderMap, HeaderValue, StatusCode};
use opentelemetry::{SpanId, TraceId};
use opentelemetry_sdk::trace::{Sampler, SpanData};
use pipeline::{
    request::{Inference, OpaqueReply, Outcome},
    tensor::{DataType, Tensor},
    trace::Traced,
};
use tokio::sync::mpsc::{self, Receiver};

use super::*;
use crate::trace::Sampling;

fn tracer() -> (Tracer, Receiver<SpanData>) {
    let (spans, taken) = mpsc::channel(16);
    (Tracer::new(Sampling { root: Sampler::AlwaysOn, follows_caller: true }, spans), taken)
}

/// A call of so many requests, those with these spans of them traced.
fn call(requests: usize, spans: &[u64]) -> Call {
    let traced = spans.iter().map(|span| Arc::new(Traced::new(Context { trace: 7, span: *span })));
    let tensor = Tensor::new("x", DataType::Uint8, vec![5, 1], Bytes::from_static(&[1; 5]));
    let mut trace = HeaderMap::new();
    trace.insert(TRACEPARENT, HeaderValue::from_static("00-of-the-client"));
    trace.insert(TRACESTATE, HeaderValue::from_static("vendor=1"));
    let deadline = Instant::now() + Duration::from_secs(10);
    Call {
        payload: Payload::Tensors(Inference { inputs: vec![tensor], ..Inference::default() }),
        deadline,
        ends: deadline,
        trace,
        requests,
        traced: traced.collect(),
    }
}

fn begin(tracer: &Tracer, call: &mut Call) -> Option<Sent> {
    let target =
        Target::Http { path: "/v2/models/m/infer".into(), template: "/v2/models/{model}/infer".into() };
    Sent::begin(tracer, call, ("127.0.0.1:8001".parse().unwrap(), target), "m")
}

fn text(span: &SpanData, key: &str) -> Option<String> {
    span.attributes.iter().find(|pair| pair.key.as_str() == key).map(|pair| pair.value.to_string())
}

/// What the model server is told its caller is.
fn told(span: &SpanData) -> String {
    format!("00-{}-{}-01", span.span_context.trace_id(), span.span_context.span_id())
}

#[tokio::test]
async fn the_model_server_is_told_of_the_span_that_is_recorded() {
    let (tracer, mut spans) = tracer();
    let mut call = call(1, &[3]);
    let sent = begin(&tracer, &mut call).unwrap();
    assert_eq!(call.trace[TRACESTATE], "vendor=1");
    sent.came_to(Ok(Reply::Tensors(Outcome::default()))).unwrap();
    let span = spans.recv().await.unwrap();
    assert_eq!(call.trace[TRACEPARENT], told(&span));
    assert_eq!((span.span_kind.clone(), &*span.name), (SpanKind::Client, "POST /v2/models/{model}/infer"));
    assert_eq!(
        (span.span_context.trace_id(), span.parent_span_id),
        (TraceId::from(7u128), SpanId::from(3u64))
    );
    assert_eq!(text(&span, "url.full").unwrap(), "http://127.0.0.1:8001/v2/models/m/infer");
    assert_eq!(
        (text(&span, "server.port").unwrap(), text(&span, "http.response.status_code").unwrap()),
        ("8001".into(), "200".into())
    );
    assert!(spans.try_recv().is_err());
}

#[tokio::test]
async fn a_call_for_nobody_who_is_traced_is_left_alone() {
    let (tracer, mut spans) = tracer();
    let mut call = call(3, &[]);
    assert!(begin(&tracer, &mut call).is_none());
    assert_eq!(call.trace[TRACEPARENT], "00-of-the-client");
    assert!(spans.try_recv().is_err());
}

#[tokio::test]
async fn a_merged_call_is_below_a_batch_that_links_each_of_its_requests_once() {
    let (tracer, mut spans) = tracer();
    // The second request was cut in two.
    let mut call = call(4, &[3, 4, 4]);
    let sent = begin(&tracer, &mut call).unwrap();
    assert!(!call.trace.contains_key(TRACESTATE), "it was the first one's");
    sent.came_to(Err(CallError::Reset)).unwrap_err();
    let (span, batch) = (spans.recv().await.unwrap(), spans.recv().await.unwrap());
    assert_eq!(call.trace[TRACEPARENT], told(&span));
    assert_eq!(span.parent_span_id, batch.span_context.span_id());
    assert_eq!((&*batch.name, batch.parent_span_id), ("batch m", SpanId::INVALID));
    assert_ne!(batch.span_context.trace_id(), TraceId::from(7u128));
    let linked: Vec<SpanId> = batch.links.iter().map(|link| link.span_context.span_id()).collect();
    assert_eq!(linked, [SpanId::from(3u64), SpanId::from(4u64)]);
    assert_eq!(text(&batch, "tidegate.batch.requests").unwrap(), "4");
    assert_eq!(text(&batch, "tidegate.batch.rows").unwrap(), "5");
    for failed in [&span, &batch] {
        assert_eq!(
            (text(failed, "error.type").unwrap(), &failed.status),
            ("reset".into(), &Status::error("reset"))
        );
    }
    for member in &call.traced {
        let batches = member.notes().batches;
        assert!(matches!(batches[..], [known] if SpanId::from(known.span) == batch.span_context.span_id()));
    }
}

#[tokio::test]
async fn a_large_batch_says_how_many_requests_it_does_not_link() {
    let (tracer, mut spans) = tracer();
    let mut call = call(200, &(1..=200).collect::<Vec<u64>>());
    drop(begin(&tracer, &mut call));
    let (span, batch) = (spans.recv().await.unwrap(), spans.recv().await.unwrap());
    assert_eq!((batch.links.len(), batch.links.dropped_count), (128, 72));
    assert_eq!(text(&span, "error.type").unwrap(), "cancelled");
}

#[tokio::test]
async fn a_streamed_answer_ends_with_its_last_piece_and_fails_where_it_breaks_off() {
    for (last, failed) in
        [(Ok(Bytes::from_static(b"b")), None), (Err(CallError::Reset), Some("reset".to_owned()))]
    {
        let (tracer, mut spans) = tracer();
        let sent = begin(&tracer, &mut call(1, &[3])).unwrap();
        let rest = stream::iter([last]).boxed();
        let reply = StreamReply { headers: HeaderMap::new(), first: Bytes::new(), rest };
        let Ok(Reply::Stream(mut reply)) = sent.came_to(Ok(Reply::Stream(reply))) else { panic!() };
        assert!(spans.try_recv().is_err(), "it goes on");
        while reply.rest.next().await.is_some() {}
        assert_eq!(text(&spans.try_recv().unwrap(), "error.type"), failed);
    }
}

#[tokio::test]
async fn an_answer_has_the_status_it_came_with() {
    let (tracer, mut spans) = tracer();
    let sent = begin(&tracer, &mut call(1, &[3])).unwrap();
    let (status, headers, body) = (StatusCode::ACCEPTED, HeaderMap::new(), Bytes::new());
    sent.came_to(Ok(Reply::Opaque(OpaqueReply { status, headers, body }))).unwrap();
    assert_eq!(text(&spans.try_recv().unwrap(), "http.response.status_code").unwrap(), "202");
}
