//! What clients get wrong, from end to end: a code of the table and a sentence, never 500.

use serde_json::Value;

use crate::{
    client::request,
    digits::{INFER, ONE},
    rig::{Gateway, Model},
};

struct Case {
    method: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    status: u16,
    reason: &'static str,
}

const fn post(path: &'static str, body: &'static str, status: u16, reason: &'static str) -> Case {
    Case { method: "POST", path, headers: &[], body, status, reason }
}

const fn with(
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    status: u16,
    reason: &'static str,
) -> Case {
    Case { method: "POST", path: INFER, headers, body, status, reason }
}

const V1: &str = "/v1/models/digits:predict";

const CASES: &[Case] = &[
    post(INFER, "", 400, "bad_json"),
    post(INFER, "{", 400, "bad_json"),
    post(INFER, "[]", 400, "bad_request"),
    post(INFER, "{} {}", 400, "bad_json"),
    post(INFER, "\u{feff}{}", 400, "bad_json"),
    post(INFER, "{}", 400, "bad_request"),
    post(
        INFER,
        r#"{"inputs":[{"name":"pixels","datatype":"FP32","shape":[1,64],"data":[1]}]}"#,
        400,
        "bad_tensor",
    ),
    post(
        INFER,
        r#"{"inputs":[{"name":"pixels","datatype":"FP32","shape":[-1,64],"data":[]}]}"#,
        400,
        "bad_tensor",
    ),
    post(
        INFER,
        r#"{"inputs":[{"name":"pixels","datatype":"FP32","shape":[9223372036854775807,9223372036854775807],"data":[]}]}"#,
        400,
        "bad_tensor",
    ),
    post(
        INFER,
        r#"{"inputs":[{"name":"pixels","datatype":"FLOAT","shape":[1],"data":[1]}]}"#,
        400,
        "bad_tensor",
    ),
    post(
        INFER,
        r#"{"inputs":[{"name":"pixels","datatype":"FP32","shape":[1],"data":["x"]}]}"#,
        400,
        "bad_tensor",
    ),
    post(
        INFER,
        r#"{"inputs":[{"name":"pixels","datatype":"FP32","shape":[1],"data":[NaN]}]}"#,
        400,
        "bad_json",
    ),
    post(V1, "{}", 400, "bad_request"),
    post(V1, r#"{"instances":[]}"#, 400, "bad_request"),
    post(V1, r#"{"instances":[[1,2],[3]]}"#, 400, "bad_tensor"),
    post("/v2/models/nope/infer", ONE, 404, "model_not_found"),
    post("/v1/models/nope:predict", "{}", 404, "model_not_found"),
    post("/nowhere", ONE, 404, "route_not_found"),
    with(&[("x-request-timeout-ms", "soon")], ONE, 400, "bad_deadline"),
    with(&[("inference-header-content-length", "9999")], ONE, 400, "bad_header_length"),
    with(&[("inference-header-content-length", "x")], ONE, 400, "bad_header_length"),
    with(&[("content-encoding", "br")], ONE, 415, "unsupported_media_type"),
    with(&[("content-type", "multipart/form-data")], ONE, 415, "unsupported_media_type"),
    Case { method: "PUT", path: INFER, headers: &[], body: ONE, status: 405, reason: "method_not_allowed" },
];

#[tokio::test]
async fn each_is_told_what_is_wrong_and_none_disturbs_the_next() {
    let ready = Model { scaling: "{min: 1, max: 1}", ..Model::DIGITS };
    let gateway = Gateway::ready(&ready).await;
    let mut wrong = Vec::new();
    for Case { method, path, headers, body, status, reason } in CASES {
        let mut client = gateway.connect().await;
        let reply = client.call(request(method, path, headers, *body)).await.unwrap();
        let sentence = match serde_json::from_slice::<Value>(&reply.body) {
            Ok(Value::Object(body)) => body["error"].as_str().unwrap_or_default().to_owned(),
            _ => String::new(),
        };
        let told = !sentence.is_empty() && sentence.chars().count() <= 300;
        if (reply.status.as_u16(), reply.reason(), told) != (*status, *reason, true) {
            wrong.push(format!("{method} {path} {headers:?} {body}\n  {} {}", reply.status, reply.text()));
        }
        assert!(!reply.header("x-request-id").is_empty());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(gateway.connect().await.post(INFER, ONE).await.status, 200);
    let metrics = gateway.metrics().await;
    assert!(metrics.sum("tidegate_requests_total", &["code=\"500\""]) <= 0.0);
    assert!(metrics.sum("tidegate_panics_total", &[]) <= 0.0);
}
