//! Traces as a collector gets them over OTLP.

mod collector;

use std::{process::Stdio, time::Duration};

use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use serde_json::json;
use tokio::task::JoinSet;

use self::collector::{Attributes as _, Collector, failed, lasted};
use crate::{
    client::{Http, request},
    digits::{HELD_OUT, INFER, ONE, Way, classify_all, v2_json},
    process::Running,
    rig::{Folder, Gateway, Model, Server, configuration, fixed},
};

const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: [u8; 16] = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
const PARENT: [u8; 8] = 0xb7ad_6b71_6920_3331_u64.to_be_bytes();
const CHAT: &str = "/v1/chat/completions";

/// A model of which no calls are merged.
const ALONE: Model<'_> =
    Model { keys: "slo: {p99: 500ms}\nbatching: off", scaling: "{min: 1, max: 1}", ..Model::DIGITS };

/// Spans are sent soon after they have ended.
async fn traced(collector: &Collector, models: &[String]) -> Gateway {
    let url = collector.url("grpc");
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=of%20the%20collector"),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_SERVICE_NAME", "front-door"),
    ];
    Gateway::start_with(&environment, models).await
}

#[tokio::test]
async fn a_call_is_part_of_its_callers_trace_and_so_is_the_call_to_the_model_server() {
    let collector = Collector::start().await;
    let gateway = traced(&collector, &[ALONE.yaml()]).await;
    gateway.until_ready("digits", 1).await;
    let headers = [
        ("content-type", "application/json"),
        ("traceparent", CALLER),
        ("tracestate", "vendor=1"),
        ("authorization", "Bearer hidden-credential"),
    ];
    let reply = gateway.connect().await.call(request("POST", INFER, &headers, ONE)).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    gateway.connect().await.get("/v2/health/ready").await;

    let name = "POST /v2/models/{model}/infer";
    let (served, sent) = collector
        .until("the call and the call upstream", |spans| {
            let served = spans.named(name)?.clone();
            let sent = spans.below(&served).into_iter().find(|span| span.kind == SpanKind::Client as i32)?;
            Some((served, sent.clone()))
        })
        .await;
    assert_eq!((served.trace_id.as_slice(), served.parent_span_id.as_slice()), (&TRACE[..], &PARENT[..]));
    assert_eq!((served.kind, &*served.trace_state), (SpanKind::Server as i32, "vendor=1"));
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/v2/models/{model}/infer"),
        ("url.path", INFER),
        ("url.scheme", "http"),
        ("network.protocol.version", "1.1"),
        ("server.address", "localhost"),
        ("tidegate.model", "digits"),
        ("tidegate.reason", "ok"),
        ("tidegate.request_id", reply.header("x-request-id")),
    ] {
        assert_eq!(served.string(key), value, "{key}");
    }
    assert_eq!(served.integer("http.response.status_code"), 200);
    assert_eq!(served.integer("tidegate.batch.rows"), 1);
    assert!(served.value("gen_ai.operation.name").is_none() && !failed(&served));

    assert_eq!(sent.name, "inference.GRPCInferenceService/ModelInfer");
    assert_eq!(
        (sent.string("rpc.system.name"), sent.string("rpc.response.status_code")),
        ("grpc".into(), "OK".into())
    );
    assert_eq!(sent.string("server.address"), "127.0.0.1");
    assert!(sent.integer("server.port") > 0);
    assert!(lasted(&sent) <= lasted(&served));

    let spans = collector.spans();
    assert_eq!(spans.of_kind(SpanKind::Server).count(), 1, "a probe is not traced: {spans:?}");
    let pixels = "pixels";
    assert!(!spans.text().contains("hidden-credential") && !spans.text().contains(pixels), "{spans:?}");
    assert_eq!(collector.keys()[0], "of the collector");
    assert_eq!(collector.resource().string("service.name"), "front-door");
    let exported = ["outcome=\"exported\""];
    crate::process::until("exported spans are counted", async || {
        (gateway.metrics().await.sum("tidegate_spans_total", &exported) >= 2.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_merged_call_is_a_batch_that_is_linked_with_its_requests() {
    let collector = Collector::start().await;
    let paced = Model { server: ", --pace, 8ms+1ms", scaling: "{min: 1, max: 1}", ..Model::DIGITS };
    let gateway = traced(&collector, &[paced.yaml()]).await;
    gateway.until_ready("digits", 1).await;
    classify_all(Way::V2Json, gateway.clients, 16).await;

    let (batch, members, sent) = collector
        .until("a batch with all of its members", |spans| {
            let batches = spans.0.iter().filter(|span| span.name == "batch digits" && span.links.len() > 3);
            batches
                .filter_map(|batch| {
                    let links = batch.links.iter();
                    let members = links.map(|link| {
                        let linked =
                            |span: &&Span| span.span_id == link.span_id && span.trace_id == link.trace_id;
                        spans.0.iter().find(linked).cloned()
                    });
                    let sent = spans.below(batch).first().map(|span| (*span).clone())?;
                    Some((batch.clone(), members.collect::<Option<Vec<_>>>()?, sent))
                })
                .next()
        })
        .await;
    assert!(batch.parent_span_id.is_empty(), "it belongs to all of them alike");
    assert_eq!(batch.integer("tidegate.batch.requests"), members.len() as i64);
    assert_eq!(batch.integer("tidegate.batch.rows"), members.len() as i64);
    assert_eq!((sent.kind, &sent.trace_id), (SpanKind::Client as i32, &batch.trace_id));
    for member in &members {
        assert_eq!((member.kind, &*member.name), (SpanKind::Server as i32, "POST /v2/models/{model}/infer"));
        assert!(member.links.iter().any(|link| link.span_id == batch.span_id), "{member:?}");
        let spans = collector.spans();
        let queue = spans.below(member);
        assert_eq!(queue.iter().map(|span| &*span.name).collect::<Vec<_>>(), ["queue"]);
        assert!(lasted(queue[0]) + lasted(&batch) <= lasted(member));
    }
}

#[tokio::test]
async fn the_span_of_a_streamed_chat_ends_with_the_stream_and_has_its_tokens() {
    let collector = Collector::start().await;
    let parrot = r#"  - name: parrot
    fleet: {process: {command: [tidegate, model-server, --chat-sim, parrot, --port, "{port}", --ttft, 40ms, --tpot, 10ms]}}
    protocol: openai
    slo: {ttft: {p99: 2s}, tpot: {p95: 60ms}}
    scaling: {min: 1, max: 1}
"#;
    let gateway = traced(&collector, &[parrot.to_owned()]).await;
    gateway.until_ready("parrot", 1).await;
    let prompt = [json!({"role": "user", "content": "nobody-but-us may read this"})];
    let body = json!({"model": "parrot", "messages": prompt, "max_tokens": 20, "stream": true}).to_string();
    let reply = gateway.connect().await.post(CHAT, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());

    let (chat, sent) = collector
        .until("the chat and the call upstream", |spans| {
            let chat = spans.named("chat parrot")?;
            let sent = spans.below(chat).into_iter().find(|span| span.kind == SpanKind::Client as i32)?;
            Some((chat.clone(), sent.clone()))
        })
        .await;
    for (key, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.request.model", "parrot"),
        ("http.route", CHAT),
        ("tidegate.reason", "ok"),
    ] {
        assert_eq!(chat.string(key), value, "{key}");
    }
    assert_eq!(chat.integer("gen_ai.usage.output_tokens"), 20);
    assert!(chat.integer("gen_ai.usage.input_tokens") > 0);
    assert!(chat.parent_span_id.is_empty(), "nobody said where it belongs");
    let first = chat.double("gen_ai.response.time_to_first_chunk");
    // 40 ms to the first token, and 19 further ones of 10 ms each.
    assert!(first >= 0.04 && first < lasted(&chat).as_secs_f64(), "{first}");
    assert!(lasted(&chat) >= Duration::from_millis(40 + 190), "{:?}", lasted(&chat));
    assert!(lasted(&sent) >= Duration::from_millis(40 + 190), "{:?}", lasted(&sent));
    assert_eq!((&*sent.name, sent.integer("http.response.status_code")), ("POST /v1/chat/completions", 200));
    assert!(!collector.spans().text().contains("nobody-but-us"), "{:?}", collector.spans());
}

#[tokio::test]
async fn what_fails_says_why_and_who_does_not_sample_is_followed() {
    let collector = Collector::start().await;
    let gateway = traced(&collector, &[ALONE.yaml()]).await;
    gateway.until_ready("digits", 1).await;
    let mut client = gateway.connect().await;
    let unsampled = CALLER.replace("-01", "-00");
    let headers = [("content-type", "application/json"), ("traceparent", &*unsampled)];
    assert_eq!(client.call(request("POST", INFER, &headers, ONE)).await.unwrap().status, 200);
    let headers = [("content-type", "application/json"), ("traceparent", "00-nonsense")];
    let bad = request("POST", "/v2/models/nope/infer", &headers, ONE);
    assert_eq!(client.call(bad).await.unwrap().status, 404);
    let late = [("content-type", "application/json"), ("x-request-timeout-ms", "0")];
    let late = client.call(request("POST", INFER, &late, ONE)).await.unwrap();

    let spans = collector
        .until("two calls", |spans| (spans.of_kind(SpanKind::Server).count() >= 2).then(|| spans.clone()))
        .await;
    let served: Vec<&Span> = spans.of_kind(SpanKind::Server).collect();
    assert_eq!(served.len(), 2, "the first is not sampled: {served:?}");
    let of = |reason: &str| served.iter().find(|span| span.string("tidegate.reason") == reason).unwrap();
    let unknown = of("model_not_found");
    assert_eq!(unknown.integer("http.response.status_code"), 404);
    assert!(unknown.parent_span_id.is_empty() && unknown.trace_id != TRACE);
    assert!(!failed(unknown), "that is the client's fault");
    let refused = of(late.reason());
    assert_eq!(refused.integer("http.response.status_code"), i64::from(late.status.as_u16()));
    assert_eq!(failed(refused), late.status.is_server_error());
}

#[tokio::test]
async fn the_last_spans_are_exported_before_the_process_ends_over_either_protocol() {
    for protocol in ["grpc", "http/protobuf"] {
        let collector = Collector::start().await;
        let url = collector.url(protocol);
        let environment = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-key=one"),
            ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ];
        let mut gateway = Gateway::start_with(&environment, &[ALONE.yaml()]).await;
        gateway.until_ready("digits", 1).await;
        assert_eq!(gateway.connect().await.post(INFER, v2_json(&HELD_OUT[0].pixels)).await.status, 200);
        assert_eq!(collector.calls(), 0, "they wait for company");
        gateway.signal(Signal::SIGTERM);
        assert_eq!(gateway.ended().await, Some(0));
        let spans = collector.spans();
        assert_eq!(spans.of_kind(SpanKind::Server).count(), 1, "{protocol}: {spans:?} {}", gateway.log());
        assert_eq!((collector.keys(), collector.calls()), (vec!["one".to_owned()], 1), "{protocol}");
    }
}

#[tokio::test]
async fn a_collector_that_is_away_costs_calls_nothing_and_the_end_little() {
    let (gone, address) = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, format!("http://{address}"))
    };
    drop(gone);
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*address), ("OTEL_BSP_SCHEDULE_DELAY", "1")];
    let mut gateway = Gateway::start_with(&environment, &[ALONE.yaml()]).await;
    gateway.until_ready("digits", 1).await;
    let mut clients = JoinSet::new();
    for digit in HELD_OUT.iter().take(50) {
        let mut client = gateway.connect().await;
        clients.spawn(async move { client.post(INFER, v2_json(&digit.pixels)).await.status });
    }
    assert!(clients.join_all().await.iter().all(|status| *status == 200));
    gateway.until_logged("spans could not be exported").await;
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.ended().await, Some(0));
}

#[tokio::test]
async fn nothing_is_exported_unless_it_is_asked_for() {
    let collector = Collector::start().await;
    let url = collector.url("grpc");
    let soon = ("OTEL_BSP_SCHEDULE_DELAY", "1");
    for environment in [
        &[soon][..],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), soon, ("OTEL_SDK_DISABLED", "true")],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), soon, ("OTEL_TRACES_EXPORTER", "none")],
    ] {
        let server = Server::start(&[]).await;
        let keys = "protocol: v2-http\nbatching: off";
        let mut gateway = Gateway::start_with(environment, &[fixed(&[server.address], keys)]).await;
        gateway.until_ready("digits", 1).await;
        let headers = [("content-type", "application/json"), ("traceparent", CALLER)];
        let mut client = Http::connect(gateway.clients).await;
        assert_eq!(client.call(request("POST", INFER, &headers, ONE)).await.unwrap().status, 200);
        assert!(!gateway.metrics().await.names().iter().any(|name| name.contains("spans")));
        gateway.signal(Signal::SIGTERM);
        assert_eq!(gateway.ended().await, Some(0));
        assert_eq!(collector.calls(), 0, "{environment:?}");
    }
}

#[tokio::test]
async fn a_wrong_variable_is_named_before_anything_is_served() {
    let folder = Folder::new();
    std::fs::write(folder.file("tidegate.yaml"), configuration(&[ALONE.yaml()])).unwrap();
    let file = folder.file("tidegate.yaml").display().to_string();
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
    ];
    let arguments = ["serve", "--config", &file];
    let mut process = Running::start_in(&arguments, &environment, Stdio::null(), Stdio::piped());
    let mut stderr = process.child().stderr.take().unwrap();
    assert_eq!(process.ended().await, Some(78));
    let mut said = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stderr, &mut said).await.unwrap();
    assert!(said.contains("OTEL_EXPORTER_OTLP_PROTOCOL: grpc and http/protobuf are spoken here"), "{said}");
}
