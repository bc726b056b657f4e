//! The spans of calls as clients make them.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use gateway::{
    ChatTerms,
    trace::{Sampling, Tracer},
    upstream::Protocol,
};
use http::{HeaderMap, HeaderName};
use opentelemetry::{
    SpanId, TraceId, Value,
    trace::{SpanKind, Status},
};
use opentelemetry_sdk::trace::{Sampler, SpanData};
use pipeline::{
    CallError, Error, Rejection,
    request::{Reply, StreamReply},
};
use proto::inference::{
    ModelInferRequest, ModelReadyRequest, grpc_inference_service_client::GrpcInferenceServiceClient,
    model_infer_request::InferInputTensor,
};
use tokio::{
    sync::mpsc::{self, Receiver},
    time::timeout,
};

use crate::rig::{Rig, Setup};

const INFER: &str = "/v2/models/resnet50/infer";
const BODY: &str = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1.5,2]}]}"#;
const PARENT: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
const STATE: &str = "tracestate: vendor=1\r\n";
const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;

/// Traces calls whose caller is traced, and those that have none.
fn traced(setup: Setup) -> (Rig, Receiver<SpanData>) {
    let (spans, taken) = mpsc::channel(64);
    let tracer = Tracer::new(Sampling { root: Sampler::AlwaysOn, follows_caller: true }, spans);
    (Setup { tracer: Some(tracer), ..setup }.start(), taken)
}

async fn next(spans: &mut Receiver<SpanData>) -> SpanData {
    timeout(Duration::from_secs(10), spans.recv()).await.expect("a span").unwrap()
}

fn value(span: &SpanData, key: &str) -> Option<Value> {
    span.attributes.iter().find(|pair| pair.key.as_str() == key).map(|pair| pair.value.clone())
}

fn text(span: &SpanData, key: &str) -> String {
    value(span, key).unwrap_or_else(|| panic!("no {key} in {span:?}")).to_string()
}

#[tokio::test]
async fn a_call_is_in_the_trace_of_its_caller_or_in_one_of_its_own() {
    let (rig, mut spans) = traced(Setup::default());
    assert_eq!(rig.post(INFER, &format!("{PARENT}{STATE}"), BODY).await.status, 200);
    let span = next(&mut spans).await;
    assert_eq!(
        (span.name.as_ref(), span.span_kind.clone()),
        ("POST /v2/models/{model}/infer", SpanKind::Server)
    );
    assert_eq!(span.span_context.trace_id(), TraceId::from(TRACE));
    assert_eq!(
        (span.parent_span_id, span.parent_span_is_remote),
        (SpanId::from(0xb7ad_6b71_6920_3331), true)
    );
    assert_eq!(span.span_context.trace_state().header(), "vendor=1");
    assert_eq!(
        (text(&span, "tidegate.batch.rows"), text(&span, "tidegate.cold_start")),
        ("3".into(), "2.04".into())
    );
    assert_eq!(span.status, Status::Unset);

    for broken in
        ["", STATE, "traceparent: 00-0-0-01\r\ntracestate: vendor=1\r\n", &format!("{PARENT}{PARENT}")]
    {
        assert_eq!(rig.post(INFER, broken, BODY).await.status, 200);
        let span = next(&mut spans).await;
        assert_ne!(span.span_context.trace_id(), TraceId::from(TRACE), "{broken}");
        assert_eq!(span.parent_span_id, SpanId::INVALID, "{broken}");
        let carried = rig.seen().pop().unwrap().trace;
        assert_eq!(
            carried.keys().collect::<Vec<_>>(),
            ["x-request-id"],
            "{broken}: it is of no trace of ours"
        );
    }
}

#[tokio::test]
async fn what_is_not_traced_is_carried_on_untouched() {
    let unsampled = PARENT.replace("-01\r", "-00\r");
    let (sampling, mut spans) = traced(Setup::default());
    let without = Setup::default().start();
    for (rig, parent) in
        [(&sampling, &*unsampled), (&without, PARENT), (&without, "traceparent: nonsense\r\n")]
    {
        assert_eq!(rig.post(INFER, &format!("{parent}{STATE}"), BODY).await.status, 200);
        let carried = rig.seen().pop().unwrap().trace;
        assert_eq!(carried["tracestate"], "vendor=1");
        assert!(parent.contains(carried["traceparent"].to_str().unwrap()), "{carried:?}");
    }
    assert!(spans.try_recv().is_err());
}

#[tokio::test]
async fn questions_about_the_server_are_not_traced() {
    let (rig, mut spans) = traced(Setup::default());
    for path in [
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/resnet50",
        "/v1/models",
        "/v1/models/resnet50",
    ] {
        assert_eq!(rig.get(path).await.status, 200, "{path}");
    }
    let mut client = GrpcInferenceServiceClient::connect(format!("http://{}", rig.address)).await.unwrap();
    let ready = ModelReadyRequest { name: "resnet50".into(), ..Default::default() };
    assert!(client.model_ready(ready).await.unwrap().into_inner().ready);
    assert!(spans.try_recv().is_err());
    assert_eq!(rig.get("/v2/nothing?key=secret").await.status, 404);
    let span = next(&mut spans).await;
    assert_eq!((span.name.as_ref(), text(&span, "tidegate.reason")), ("GET", "route_not_found".into()));
    assert!(!format!("{span:?}").contains("nothing"), "a path that is none of ours may hold anything");
}

#[tokio::test]
async fn a_failure_is_told_by_its_reason_and_is_an_error_where_the_server_is_to_blame() {
    let retry_after = Duration::from_secs(1);
    let (full, mut of_full) = traced(Setup::failing(Error::Rejected(Rejection::TenantLimit { retry_after })));
    assert_eq!(full.post(INFER, "", BODY).await.status, 429);
    let span = next(&mut of_full).await;
    assert_eq!(
        (text(&span, "tidegate.reason"), text(&span, "http.response.status_code")),
        ("tenant_limit".into(), "429".into())
    );
    assert_eq!((value(&span, "error.type"), &span.status), (None, &Status::Unset));

    let (down, mut of_down) = traced(Setup::failing(Error::Rejected(Rejection::NoReplicas { retry_after })));
    assert_eq!(down.post(INFER, "", BODY).await.status, 503);
    let span = next(&mut of_down).await;
    assert_eq!(
        (text(&span, "error.type"), text(&span, "http.response.status_code")),
        ("no_replicas".into(), "503".into())
    );
    assert_eq!(span.status, Status::error("no_replicas"));
}

#[tokio::test]
async fn a_client_that_leaves_was_told_nothing() {
    let (rig, mut spans) = traced(Setup { gated: true, ..Setup::default() });
    let mut wire = rig.connect().await;
    let length = BODY.len();
    wire.send(format!("POST {INFER} HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n{BODY}")).await;
    rig.asked(1).await;
    drop(wire);
    let span = next(&mut spans).await;
    assert_eq!(text(&span, "tidegate.reason"), "client_cancelled");
    assert_eq!((value(&span, "http.response.status_code"), &span.status), (None, &Status::Unset));
}

#[tokio::test]
async fn calls_over_grpc_are_told_by_their_method_and_code_and_messages_of_a_stream_one_by_one() {
    let (rig, mut spans) = traced(Setup::default());
    let mut client = GrpcInferenceServiceClient::connect(format!("http://{}", rig.address)).await.unwrap();
    let data: Vec<u8> = [1.5f32, 2.0].into_iter().flat_map(f32::to_le_bytes).collect();
    let infer = |model: &str| ModelInferRequest {
        model_name: model.into(),
        inputs: vec![InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![1, 2],
            ..Default::default()
        }],
        raw_input_contents: vec![Bytes::from(data.clone())],
        ..Default::default()
    };
    client.model_infer(infer("resnet50")).await.unwrap();
    let span = next(&mut spans).await;
    let method = "inference.GRPCInferenceService/ModelInfer";
    assert_eq!((span.name.as_ref(), text(&span, "rpc.method")), (method, method.to_owned()));
    assert_eq!(text(&span, "rpc.system.name"), "grpc");
    assert_eq!(text(&span, "rpc.response.status_code"), "OK");
    assert_eq!(text(&span, "server.address"), "127.0.0.1");
    assert!(value(&span, "http.request.method").is_none());
    client.model_infer(infer("nope")).await.unwrap_err();
    assert_eq!(text(&next(&mut spans).await, "rpc.response.status_code"), "NOT_FOUND");

    let mut messages = tonic::Request::new(stream::iter([infer("resnet50"), infer("nope")]));
    let parent = PARENT.trim_end().split_once(' ').unwrap().1;
    messages.metadata_mut().insert("traceparent", parent.parse().unwrap());
    let mut answers = client.model_stream_infer(messages).await.unwrap().into_inner();
    while answers.next().await.is_some() {}
    let (good, bad) = (next(&mut spans).await, next(&mut spans).await);
    assert_eq!(
        (text(&good, "tidegate.reason"), text(&bad, "tidegate.reason")),
        ("ok".into(), "model_not_found".into())
    );
    for span in [&good, &bad] {
        assert_eq!(span.name, "inference.GRPCInferenceService/ModelStreamInfer");
        assert_eq!(span.span_context.trace_id(), TraceId::from(TRACE));
    }
    assert_ne!(good.span_context.span_id(), bad.span_context.span_id());
    assert!(spans.try_recv().is_err(), "the stream itself has no span");
}

#[tokio::test]
async fn a_chat_that_breaks_off_had_begun_well_and_is_an_error() {
    let script = |_: &_| {
        let token = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
        let rest = stream::iter([Err(CallError::Reset)]).boxed();
        Ok(Reply::Stream(StreamReply { headers: HeaderMap::new(), first: token.into(), rest }))
    };
    let chat = ChatTerms {
        first_token: Duration::from_secs(5),
        between_tokens: Duration::from_secs(5),
        session_header: HeaderName::from_static("x-session-id"),
    };
    let setup = Setup { chat: Some(chat), script: Box::new(script), ..Setup::passing(Protocol::OpenAi) };
    let (rig, mut spans) = traced(setup);
    let body = r#"{"model":"resnet50","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    let reply = rig.post("/v1/chat/completions", "content-type: application/json\r\n", body).await;
    assert_eq!(reply.status, 200);
    let span = next(&mut spans).await;
    assert_eq!((span.name.as_ref(), text(&span, "gen_ai.operation.name")), ("chat resnet50", "chat".into()));
    assert_eq!(
        (text(&span, "gen_ai.request.stream"), text(&span, "http.response.status_code")),
        ("true".into(), "200".into())
    );
    assert_eq!(
        (text(&span, "error.type"), &span.status),
        ("upstream_reset".into(), &Status::error("upstream_reset"))
    );
}
