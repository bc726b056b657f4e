use std::sync::Mutex;

use super::*;
use crate::upstream::{Protocol, scripted::*};

mod openai;

/// Metadata, and answers in JSON and in binary, of a model of two rows of one byte.
const MODEL: &str = concat!(
    r#"{"name":"m","versions":[],"platform":"p","#,
    r#""inputs":[{"name":"x","datatype":"UINT8","shape":[-1,1]}],"outputs":[]}"#,
);
const BINARY_OUTPUTS: &str = concat!(
    r#"{"model_name":"m","outputs":[{"name":"y","datatype":"UINT8","shape":[2,1],"#,
    r#""parameters":{"binary_data_size":2}}]}"#,
);
const OUTPUTS: &str =
    r#"{"model_name":"m","outputs":[{"name":"y","datatype":"UINT8","shape":[2,1],"data":[3,4]}]}"#;

/// A server that answers everything alike, and what it was asked.
async fn recording(answer: String) -> (Scripted, Arc<Mutex<Vec<Received>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&asked);
    let scripted = http1(move |received| {
        record.lock().unwrap().push(received.clone());
        answer.clone()
    })
    .await;
    (scripted, asked)
}

#[tokio::test]
async fn tensors_travel_as_json_unless_the_server_takes_binary() {
    let (scripted, asked) = recording(http1_answer(200, "", OUTPUTS)).await;
    let outcome = send_tensors(&scripted.upstream(Protocol::V2Http)).await.unwrap();
    assert_eq!(outcome.model_name, "m");
    assert_eq!(outcome.outputs[0].data.as_ref(), [3, 4]);
    let asked = asked.lock().unwrap();
    assert_eq!(asked[0].line, "POST /v2/models/m/infer HTTP/1.1");
    assert_eq!(asked[0].headers["content-type"], "application/json");
    assert_eq!(asked[0].headers["host"], scripted.address.to_string());
    assert_eq!(asked[0].headers["x-request-id"], "r1");
    let body: serde_json::Value = serde_json::from_slice(&asked[0].body).unwrap();
    assert_eq!(body["id"], "r1", "some servers fail a call without an id");
    let told: u64 = asked[0].headers["x-request-timeout-ms"].parse().unwrap();
    assert!((9_000..=10_000).contains(&told), "{told}");
    assert!(!asked[0].headers.contains_key("inference-header-content-length"));
}

#[tokio::test]
async fn tensors_travel_in_binary_once_the_server_said_that_it_takes_them() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&asked);
    let scripted = http1(move |received| {
        record.lock().unwrap().push(received.clone());
        match received.line.as_str() {
            "GET /v2 HTTP/1.1" => http1_answer(200, "", r#"{"extensions":["binary_tensor_data"]}"#),
            "GET /v2/models/m HTTP/1.1" => http1_answer(200, "", MODEL),
            _ => {
                let length = format!("inference-header-content-length: {}\r\n", BINARY_OUTPUTS.len());
                http1_answer(200, &length, &format!("{BINARY_OUTPUTS}\u{3}\u{4}"))
            }
        }
    })
    .await;
    let server = scripted.server(Protocol::V2Http);
    let description = within(server.describe()).await.unwrap();
    assert_eq!(description.model.platform, "p");
    assert_eq!(description.extensions, ["binary_tensor_data"]);
    let outcome = send_tensors(&server.upstream()).await.unwrap();
    assert_eq!(outcome.outputs[0].data.as_ref(), [3, 4]);
    let asked = asked.lock().unwrap();
    let sent = asked.last().unwrap();
    assert_eq!(sent.headers["content-type"], "application/octet-stream");
    let header_length: usize = sent.headers["inference-header-content-length"].parse().unwrap();
    assert_eq!(sent.body[header_length..], [1, 2]);
}

#[tokio::test]
async fn a_version_is_asked_for_by_path() {
    let (scripted, asked) = recording(http1_answer(200, "", OUTPUTS)).await;
    let mut payload = tensors();
    let Payload::Tensors(inference) = &mut payload else { unreachable!() };
    inference.version = "3/..".to_owned();
    send(&scripted.upstream(Protocol::V2Http), payload).await.unwrap();
    assert_eq!(asked.lock().unwrap()[0].line, "POST /v2/models/m/versions/3%2F../infer HTTP/1.1");
}

#[tokio::test]
async fn the_predict_protocol_has_its_own_paths_and_bodies() {
    let (scripted, asked) = recording(http1_answer(200, "", r#"{"predictions":[3,4]}"#)).await;
    let outcome = send_tensors(&scripted.upstream(Protocol::V1)).await.unwrap();
    assert_eq!(outcome.outputs[0].rows(), Some(2));
    let asked = asked.lock().unwrap();
    assert_eq!(asked[0].line, "POST /v1/models/m:predict HTTP/1.1");
    assert!(String::from_utf8_lossy(&asked[0].body).contains("instances"));
}

#[tokio::test]
async fn refusals_of_tensors_are_errors_with_the_servers_words() {
    for (status, kind) in [(400, Refusal::Invalid), (404, Refusal::NotFound), (422, Refusal::Invalid)] {
        let (scripted, _) = recording(http1_answer(status, "", r#"{"error":"no"}"#)).await;
        let error = send_tensors(&scripted.upstream(Protocol::V2Http)).await.unwrap_err();
        assert_eq!(error, CallError::Refused { kind, message: "no".to_owned(), words: None });
    }
    let (scripted, _) = recording(http1_answer(500, "", r#"{"error":"secret"}"#)).await;
    assert_eq!(send_tensors(&scripted.upstream(Protocol::V2Http)).await.unwrap_err(), CallError::Failed);
    let (scripted, _) = recording(http1_answer(503, "retry-after: 2\r\n", "")).await;
    let error = send_tensors(&scripted.upstream(Protocol::V2Http)).await.unwrap_err();
    assert_eq!(error, CallError::Busy { retry_after: Some(std::time::Duration::from_secs(2)) });
}

#[tokio::test]
async fn answers_that_are_no_tensors_mean_bad_response() {
    for (headers, body) in [
        ("", "<html>"),
        ("", "{}"),
        ("inference-header-content-length: x\r\n", OUTPUTS),
        ("inference-header-content-length: 99999\r\n", OUTPUTS),
    ] {
        let (scripted, _) = recording(http1_answer(200, headers, body)).await;
        let error = send_tensors(&scripted.upstream(Protocol::V2Http)).await.unwrap_err();
        assert_eq!(error, CallError::BadResponse, "{headers} {body}");
    }
}

#[tokio::test]
async fn a_body_is_handed_on_as_it_came_and_so_is_its_answer() {
    let headers = "content-type: text/x\r\nx-own: 1\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: 5\r\n";
    let (scripted, asked) = recording(http1_answer(202, headers, "what?")).await;
    let payload = opaque(
        Wire::Http,
        "/v2/models/m/infer?a=b",
        &[("content-type", "text/y"), ("content-length", "999"), ("te", "trailers"), ("host", "evil")],
        Bytes::from_static(b"body"),
    );
    let reply = send_opaque(&scripted.upstream(Protocol::V2Http), payload).await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.body.as_ref()), (202, b"what?".as_ref()));
    let mut names: Vec<_> = reply.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-type", "x-own"]);

    let asked = asked.lock().unwrap();
    assert_eq!(asked[0].line, "POST /v2/models/m/infer?a=b HTTP/1.1");
    assert_eq!(asked[0].body, b"body");
    assert_eq!(asked[0].headers["content-length"], "4");
    assert_eq!(asked[0].headers["content-type"], "text/y");
    assert_eq!(asked[0].headers["host"], scripted.address.to_string());
    assert_eq!(asked[0].headers["x-request-id"], "r1");
    assert!(!asked[0].headers.contains_key("te"));
}

#[tokio::test]
async fn of_the_answers_to_bodies_handed_on_only_successes_are_passed_on() {
    let refused = |kind| Err(CallError::Refused { kind, message: "no".to_owned(), words: None });
    for (status, expected) in [
        (200, Ok(200)),
        (304, Err(CallError::BadResponse)),
        (400, refused(Refusal::Invalid)),
        (404, refused(Refusal::NotFound)),
        (413, refused(Refusal::TooLarge)),
        (422, refused(Refusal::Invalid)),
        (429, Err(CallError::Busy { retry_after: None })),
        (503, Err(CallError::Busy { retry_after: None })),
        (500, Err(CallError::Failed)),
        (502, Err(CallError::Failed)),
    ] {
        let (scripted, _) = recording(http1_answer(status, "", r#"{"error":"no"}"#)).await;
        let reply = send_opaque(&scripted.upstream(Protocol::V2Http), http_payload("{}")).await;
        assert_eq!(reply.map(|reply| reply.status.as_u16()), expected);
    }
}

#[tokio::test]
async fn a_grpc_body_cannot_be_handed_on_over_http() {
    let (scripted, asked) = recording(http1_answer(200, "", "x")).await;
    let payload = opaque(Wire::Grpc, "/inference.GRPCInferenceService/ModelInfer", &[], Bytes::new());
    let error = send(&scripted.upstream(Protocol::V2Http), payload).await.unwrap_err();
    assert!(matches!(error, CallError::Refused { kind: Refusal::Unsupported, .. }));
    assert!(asked.lock().unwrap().is_empty());
}

#[test]
fn paths_are_those_of_the_protocols() {
    assert_eq!(infer_path(Dialect::V2, "digits", "").unwrap(), "/v2/models/digits/infer");
    assert_eq!(infer_path(Dialect::V2, "digits", "3").unwrap(), "/v2/models/digits/versions/3/infer");
    assert_eq!(infer_path(Dialect::V1, "digits", "").unwrap(), "/v1/models/digits:predict");
    assert_eq!(infer_path(Dialect::V1, "digits", "3").unwrap(), "/v1/models/digits/versions/3:predict");
}

#[test]
fn no_version_leaves_its_place_in_the_path() {
    for (version, encoded) in [
        ("../x", "..%2Fx"),
        ("..", "%2E%2E"),
        ("1.0", "1.0"),
        ("a?b#c", "a%3Fb%23c"),
        ("a b\r\nx", "a%20b%0D%0Ax"),
        ("ž", "%C5%BE"),
    ] {
        let path = infer_path(Dialect::V2, "m", version).unwrap();
        assert_eq!(path, format!("/v2/models/m/versions/{encoded}/infer").as_str());
    }
    assert_eq!(infer_path(Dialect::V2, "m", &"x".repeat(70_000)), None);
}
