//! The REST surfaces: both ways through, errors, and what is said about models.

use std::{io::Write as _, time::Duration};

use gateway::{Readiness, upstream::Protocol};
use pipeline::{CallError, Error, Refusal, Rejection, request::Payload};
use serde_json::json;

use crate::rig::{Setup, metadata};

const INFER: &str = "/v2/models/resnet50/infer";
const JSON: &str = "content-type: application/json\r\n";

fn tensors() -> String {
    json!({ "id": "7", "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.0] }] })
        .to_string()
}

#[tokio::test]
async fn a_body_for_a_server_of_the_same_protocol_passes_untouched() {
    let rig = Setup::passing(Protocol::V2Http).start();
    let body = "{ \"odd\" : \"spacing\"  }";
    let headers = format!(
        "{JSON}x-request-id: me-1\r\ntraceparent: 00-a-b-01\r\nx-tidegate-class: high\r\nx_tidegate_a: b\r\n"
    );
    let response = rig.post(&format!("{INFER}?a=b"), &headers, body).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.body, body);
    assert_eq!(response.header("content-type"), "application/json");
    assert_eq!(response.header("x-request-id"), "me-1");
    assert_eq!(response.header("x-tidegate-batch-rows"), "3");
    assert_eq!(response.header("x-tidegate-cold-start"), "2.04s");
    assert!(
        response
            .header("server-timing")
            .starts_with("queue;dur=0.100, batch;dur=0.000, upstream;dur=0.200, gateway;dur=")
    );
    let seen = rig.seen().remove(0);
    let Payload::Opaque(opaque) = seen.payload else { panic!("{seen:?}") };
    assert_eq!(opaque.path, INFER);
    assert_eq!(opaque.headers.len(), 1);
    assert_eq!(seen.trace["x-request-id"], "me-1");
    assert_eq!(seen.trace["traceparent"], "00-a-b-01");
    assert_eq!(seen.trace.len(), 2);
}

#[tokio::test]
async fn tensors_are_decoded_for_a_server_of_another_protocol() {
    let rig = Setup::default().start();
    let response = rig.post(INFER, JSON, tensors()).await;
    assert_eq!(response.status, 200, "{response:?}");
    let answer = response.json();
    assert_eq!(answer["model_name"], "resnet50");
    assert_eq!(answer["id"], "7");
    assert_eq!(answer["outputs"][0]["data"], json!([1.5, 2.0]));
    let Payload::Tensors(inference) = &rig.seen()[0].payload else { panic!() };
    assert_eq!(inference.inputs[0].shape, [1, 2]);
    assert_eq!(rig.memory.available(), 64 << 20, "all memory is given back");
}

#[tokio::test]
async fn binary_tensors_go_both_ways() {
    let rig = Setup::default().start();
    let head = json!({
        "parameters": { "binary_data_output": true },
        "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": { "binary_data_size": 8 } }],
    })
    .to_string();
    let mut body = head.clone().into_bytes();
    body.extend(1.5f32.to_le_bytes().into_iter().chain(2.0f32.to_le_bytes()));
    let headers = format!(
        "content-type: application/octet-stream\r\ninference-header-content-length: {}\r\n",
        head.len()
    );
    let response = rig.post(INFER, &headers, &body).await;
    assert_eq!(response.status, 200, "{response:?}");
    let json_length: usize = response.header("inference-header-content-length").parse().unwrap();
    assert_eq!(response.body[json_length..], body[head.len()..]);

    let raw = rig.post(INFER, "inference-header-content-length: 0\r\n", &body[head.len()..]).await;
    assert_eq!(raw.status, 200, "{raw:?}");
    assert!(raw.body.ends_with(&body[head.len()..]));
    let Payload::Tensors(inference) = &rig.seen()[1].payload else { panic!() };
    assert_eq!(inference.inputs[0].shape, [1, 2]);
}

#[tokio::test]
async fn compressed_bodies_are_accepted_and_unknown_encodings_refused() {
    let rig = Setup::default().start();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(tensors().as_bytes()).unwrap();
    let response = rig.post(INFER, "content-encoding: gzip\r\n", gzip.finish().unwrap()).await;
    assert_eq!(response.status, 200, "{response:?}");
    for headers in
        ["content-encoding: br\r\n", "content-type: text/plain\r\n", "content-type: multipart/form-data\r\n"]
    {
        let refused = rig.post(INFER, headers, tensors()).await;
        assert_eq!((refused.status, refused.reason()), (415, "unsupported_media_type"), "{headers}");
    }
}

#[tokio::test]
async fn v1_instances_are_typed_by_the_models_metadata() {
    let rig = Setup::default().start();
    let response = rig.post("/v1/models/resnet50:predict", JSON, r#"{"instances": [[1, 2], [3, 4]]}"#).await;
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.json()["predictions"], json!([[1.0, 2.0], [3.0, 4.0]]));
}

#[tokio::test]
async fn a_v1_call_starts_a_model_that_never_ran() {
    let rig = Setup { metadata: None, readiness: Readiness::Zero, ..Setup::default() }.start();
    let started = async {
        rig.wake.notified().await;
        rig.metadata.send_replace(Some(metadata().into()));
    };
    let call = rig.post("/v1/models/resnet50:predict", JSON, r#"{"instances": [[1, 2]]}"#);
    let (response, ()) = tokio::join!(call, started);
    assert_eq!(response.status, 200, "{response:?}");
}

#[tokio::test]
async fn bad_calls_get_the_promised_code_and_sentence() {
    let rig = Setup::default().start();
    for (path, headers, body, status, reason, sentence) in [
        (
            "/v2/models/resnet5/infer",
            "",
            "{}",
            404,
            "model_not_found",
            "model \"resnet5\" not found; did you mean \"resnet50\"?",
        ),
        ("/v2/models/a%2Fb/infer", "", "{}", 400, "bad_request", "is not a model name"),
        ("/v2/models/resnet50/explain", "", "{}", 404, "route_not_found", "there is nothing at"),
        ("/livez", "", "{}", 404, "route_not_found", "there is nothing at"),
        ("/v2/models/resnet50/generate", "", "{}", 501, "unsupported", "generate"),
        (INFER, "x-request-timeout-ms: soon\r\n", "{}", 400, "bad_deadline", "\"soon\""),
        (INFER, "x-request-timeout-ms: 0\r\n", "{}", 504, "deadline_exceeded", "on arrival"),
        (INFER, "inference-header-content-length: x\r\n", "{}", 400, "bad_header_length", ""),
        (INFER, "inference-header-content-length: 99\r\n", "{}", 400, "bad_header_length", "99"),
        (INFER, "", "{", 400, "bad_json", "not valid JSON"),
        (INFER, "", "{}", 400, "bad_request", "missing field \"inputs\""),
        (
            INFER,
            "",
            r#"{"inputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[1,2]}]}"#,
            400,
            "bad_tensor",
            "\"y\"",
        ),
        (
            INFER,
            "",
            r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1]}]}"#,
            400,
            "bad_tensor",
            "needs 2 values, got 1",
        ),
        (
            INFER,
            "",
            r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"parameters":{"shared_memory_region":"r"}}]}"#,
            501,
            "unsupported",
            "shared memory",
        ),
        ("/inference.GRPCInferenceService/ModelInfer", "", "{}", 415, "unsupported_media_type", "gRPC"),
    ] {
        let response = rig.post(path, headers, body).await;
        let shown = format!("{path} {headers:?} {body}: {response:?}");
        assert_eq!((response.status, response.reason()), (status, reason), "{shown}");
        let body = response.json();
        assert!(body["error"].as_str().unwrap().contains(sentence), "{shown}");
        assert_eq!(body["code"], reason);
        assert_eq!(body["request_id"], response.header("x-request-id"));
        assert_eq!(response.header("x-request-id").len(), 26);
    }
    assert!(rig.seen().is_empty());
}

#[tokio::test]
async fn shared_memory_is_refused_also_where_bodies_pass_through() {
    let rig = Setup::passing(Protocol::V2Http).start();
    let body = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"parameters":{"shared_memory_region":"r"}}]}"#;
    let response = rig.post(INFER, JSON, body).await;
    assert_eq!((response.status, response.reason()), (501, "unsupported"));
}

#[tokio::test]
async fn openai_paths_answer_in_openais_envelope() {
    let rig = Setup::default().start();
    let response = rig.post("/v1/chat/completions", JSON, r#"{"model":"resnet50","messages":[]}"#).await;
    assert_eq!(response.status, 501);
    assert_eq!(response.json()["error"]["code"], "unsupported");
    assert_eq!(response.json()["error"]["type"], "server_error");
    let response = rig.post("/v1/chat/completions", JSON, "{}").await;
    assert_eq!((response.status, response.reason()), (400, "bad_request"));
}

#[tokio::test]
async fn refusals_carry_their_hints() {
    let ms = Duration::from_millis;
    for (error, status, reason, after, after_ms, again) in [
        (Rejection::NoReplicas { retry_after: ms(2300) }.into(), 503, "no_replicas", "3", "2300", ""),
        (
            Rejection::PredictedLate { wait: ms(40), left: ms(10) }.into(),
            429,
            "predicted_late",
            "1",
            "40",
            "",
        ),
        (Rejection::ShuttingDown.into(), 503, "shutting_down", "1", "1000", ""),
        (Error::Upstream(CallError::Reset), 502, "upstream_reset", "", "", "false"),
        (Error::Upstream(CallError::BadResponse), 502, "upstream_bad_response", "", "", "false"),
        (Error::Upstream(CallError::Deadline), 504, "deadline_exceeded", "", "", "false"),
        (
            Error::Upstream(CallError::Refused {
                kind: Refusal::Invalid,
                message: "bad\ninput".into(),
                words: None,
            }),
            400,
            "bad_request",
            "",
            "",
            "",
        ),
        (Error::Internal, 500, "internal", "", "", ""),
    ] {
        let response = Setup::failing(error).start().post(INFER, JSON, tensors()).await;
        assert_eq!((response.status, response.reason()), (status, reason));
        assert_eq!(response.header("retry-after"), after, "{reason}");
        assert_eq!(response.header("retry-after-ms"), after_ms, "{reason}");
        assert_eq!(response.header("x-should-retry"), again, "{reason}");
        assert!(!response.json()["error"].as_str().unwrap().contains('\n'));
    }
}

#[tokio::test]
async fn the_shortest_time_of_client_body_and_model_is_the_deadline() {
    let rig = Setup::default().start();
    let with_timeout = tensors().replacen('{', r#"{"parameters":{"timeout":2000000},"#, 1);
    for (headers, body, at_most) in [
        ("", tensors(), 30),
        ("x-request-timeout-ms: 5000\r\n", tensors(), 5),
        ("x-request-timeout-ms: 99999999\r\n", tensors(), 300),
        ("x-request-timeout-ms: 5000\r\n", with_timeout.clone(), 2),
        ("", with_timeout.clone(), 2),
    ] {
        assert_eq!(rig.post(INFER, headers, body).await.status, 200);
        let left = rig.seen().pop().unwrap().left.as_secs_f64();
        assert!(left <= f64::from(at_most) && left > f64::from(at_most) - 1.0, "{left} of {at_most}");
    }
    let passing = Setup::passing(Protocol::V2Http).start();
    passing.post(INFER, "", with_timeout).await;
    assert!(passing.seen()[0].left <= Duration::from_secs(2));
}

#[tokio::test]
async fn a_deadline_passed_at_the_model_is_answered_in_time() {
    let rig = Setup { gated: true, ..Setup::default() }.start();
    let response = rig.post(INFER, "x-request-timeout-ms: 50\r\n", tensors()).await;
    assert_eq!((response.status, response.reason()), (504, "deadline_exceeded"));
}

#[tokio::test]
async fn a_panic_costs_one_call_only() {
    let rig = Setup { script: Box::new(|_| panic!("on purpose")), ..Setup::default() }.start();
    let response = rig.post(INFER, JSON, tensors()).await;
    assert_eq!((response.status, response.reason()), (500, "internal"));
    assert_eq!(rig.get("/v2/health/live").await.status, 200);
    assert_eq!(rig.memory.available(), 64 << 20);
}

#[tokio::test]
async fn without_memory_a_call_is_refused_and_not_queued() {
    let rig = Setup { memory: 16 << 10, ..Setup::default() }.start();
    let response = rig.post(INFER, JSON, vec![b' '; 32 << 10]).await;
    assert_eq!((response.status, response.reason()), (429, "queue_full"));
}

#[tokio::test]
async fn models_describe_themselves_under_their_own_name() {
    let rig = Setup::default().start();
    assert_eq!(rig.get("/v2").await.json()["name"], "tidegate");
    assert_eq!(rig.get("/v2/health/live").await.json()["live"], true);
    assert_eq!(rig.get("/v2/health/ready").await.json()["ready"], true);
    let described = rig.get("/v2/models/resnet50").await.json();
    assert_eq!(described["name"], "resnet50");
    assert_eq!(described["inputs"][0]["datatype"], "FP32");
    assert_eq!(rig.get("/v2/models/resnet50/config").await.json()["name"], "resnet50");
    let stats = rig.get("/v2/models/resnet50/stats").await.json();
    assert_eq!(stats["model_stats"][0]["inference_stats"]["success"]["count"], 7);
    assert_eq!(rig.get("/v2/models/stats").await.json(), stats);
    assert_eq!(rig.get("/v1/models").await.json()["data"][0]["id"], "resnet50");
    assert_eq!(rig.get("/v1/models/resnet50").await.json()["ready"], true);
    let index = rig.post("/v2/repository/index", "", "").await.json();
    assert_eq!(index[0]["state"], "READY");
    assert_eq!(rig.post("/v2/repository/models/resnet50/load", "", "").await.status, 200);
    rig.wake.notified().await;
    assert_eq!(rig.post("/v2/repository/models/resnet50/unload", "", "").await.status, 501);
}

#[tokio::test]
async fn a_model_at_zero_is_ready_unless_asked_strictly() {
    let rig = Setup { readiness: Readiness::Zero, ..Setup::default() }.start();
    let ready = rig.get("/v2/models/resnet50/ready").await;
    assert_eq!((ready.status, ready.header("x-tidegate-state")), (200, "zero"));
    assert_eq!(rig.get("/v2/models/resnet50/ready?strict=1").await.status, 503);
    rig.readiness.send_replace(Readiness::Off);
    assert_eq!(rig.get("/v2/models/resnet50/ready").await.status, 503);
    rig.readiness.send_replace(Readiness::Ready { replicas: 1 });
    assert_eq!(rig.get("/v2/models/resnet50/ready?strict=1").await.status, 200);
}

#[tokio::test]
async fn a_reload_swaps_the_models() {
    let rig = Setup::default().start();
    rig.models.replace([]);
    let gone = rig.post(INFER, JSON, tensors()).await;
    assert_eq!((gone.status, gone.reason()), (404, "model_not_found"));
}
