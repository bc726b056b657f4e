//! The OpenAI surface: what goes to the engine, what comes back piece by piece, and how a stream ends.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use gateway::{ChatTerms, upstream::Protocol};
use http::{HeaderMap, HeaderName};
use pipeline::{
    CallError,
    chat::Delivery,
    request::{Class, Outcome, Payload, Reply, StreamReply},
    tensor::{DataType, Tensor},
};
use tokio::sync::mpsc;

use crate::rig::{Response, Rig, Setup, echo};

const CHAT: &str = "/v1/chat/completions";
const JSON: &str = "content-type: application/json\r\n";
const STREAM: &str = r#"{"model":"resnet50","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
const TOKEN: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

fn engine() -> Setup {
    let chat = ChatTerms {
        first_token: Duration::from_secs(5),
        between_tokens: Duration::from_millis(200),
        session_header: HeaderName::from_static("x-session-id"),
    };
    Setup { chat: Some(chat), ..Setup::passing(Protocol::OpenAi) }
}

/// An engine that answers with these pieces, and then says no more if the last one is `None`.
fn streaming(pieces: &'static [Result<&'static str, CallError>], then_silent: bool) -> Rig {
    let script = move |_: &_| {
        let mut pieces = pieces.iter().cloned().map(|piece| piece.map(Bytes::from));
        let first = pieces.next().unwrap().unwrap();
        let rest = stream::iter(pieces);
        let rest = if then_silent { rest.chain(stream::pending()).boxed() } else { rest.boxed() };
        Ok(Reply::Stream(StreamReply { headers: HeaderMap::new(), first, rest }))
    };
    Setup { script: Box::new(script), ..engine() }.start()
}

async fn streamed(rig: &Rig, body: &str) -> (Response, String) {
    let response = rig.post(CHAT, JSON, body).await;
    let text = String::from_utf8(response.body.to_vec()).unwrap();
    (response, text)
}

#[tokio::test]
async fn a_stream_passes_as_it_came_and_what_the_client_did_not_ask_for_is_taken_out() {
    let rig = streaming(&[Ok(TOKEN), Ok(TOKEN), Ok(USAGE), Ok(DONE)], false);
    let (response, text) = streamed(&rig, STREAM).await;
    assert_eq!((response.status, response.header("content-type")), (200, "text/event-stream"));
    assert_eq!(text, [TOKEN, TOKEN, DONE].concat());
    let asking =
        STREAM.replace(r#""stream":true"#, r#""stream":true,"stream_options":{"include_usage":true}"#);
    assert_eq!(streamed(&rig, &asking).await.1, [TOKEN, TOKEN, USAGE, DONE].concat());
    let bodies: Vec<Bytes> = rig.seen().into_iter().map(|seen| opaque(seen.payload).0).collect();
    let asked: serde_json::Value = serde_json::from_slice(&bodies[0]).unwrap();
    assert_eq!(asked["stream_options"]["include_usage"], true);
    assert_eq!(bodies[1], asking, "nothing is changed in a body that asks itself");
}

fn opaque(payload: Payload) -> (Bytes, HeaderMap) {
    let Payload::Opaque(opaque) = payload else { panic!("{payload:?}") };
    (opaque.body, opaque.headers)
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_in_an_error_that_clients_raise_on() {
    for (pieces, code) in [
        (&[Ok(TOKEN), Err(CallError::Reset)][..], "upstream_reset"),
        (&[Ok(TOKEN)], "upstream_reset"),
        (&[Ok(TOKEN), Ok("data: {\"choi")], "upstream_reset"),
        (
            &[Ok(TOKEN), Ok("data: \u{0}\n\n"), Ok("data: x\n\n"), Err(CallError::BadResponse)],
            "upstream_bad_response",
        ),
    ] {
        let rig = streaming(pieces, false);
        let (response, text) = streamed(&rig, STREAM).await;
        assert_eq!(response.status, 200);
        let (before, after) = text.split_at(text.find("data: {\"error\"").expect("an error event"));
        assert!(before.starts_with(TOKEN));
        assert!(after.contains(&format!("\"code\":\"{code}\"")), "{after}");
        assert!(after.ends_with(DONE));
    }
}

const TRACE: &str =
    "data: {\"error\":{\"message\":\"at /srv/x.py\",\"type\":\"InternalServerError\",\"code\":500}}\n\n";
const TOO_LONG: &str = "data: {\"error\":{\"message\":\"too long\",\"type\":\"invalid_request_error\",\"param\":\"messages\",\"code\":\"too_long\"}}\n\n";

#[tokio::test]
async fn an_engine_s_error_within_a_stream_is_told_in_its_words_only_if_it_is_the_client_s_fault() {
    for (event, told) in [
        (
            TRACE,
            "data: {\"error\":{\"message\":\"the model server failed\",\"type\":\"server_error\",\"param\":null,\"code\":\"upstream_bad_response\"}}\n\n",
        ),
        (TOO_LONG, TOO_LONG),
    ] {
        let pieces: &'static [_] = vec![Ok(TOKEN), Ok(event), Ok(TOKEN), Ok(DONE)].leak();
        let rig = streaming(pieces, false);
        assert_eq!(streamed(&rig, STREAM).await.1, [TOKEN, told, DONE].concat());
    }
}

const DELTA: &str =
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n";
const FAILED: &str = "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"server_error\",\"message\":\"at /srv/x.py\"}}}\n\n";

#[tokio::test]
async fn a_response_that_breaks_off_ends_in_an_event_of_its_own_kind() {
    for (pieces, code) in [
        (&[Ok(DELTA), Ok(FAILED)][..], "upstream_bad_response"),
        (&[Ok(DELTA), Ok(TRACE)], "upstream_bad_response"),
        (&[Ok(DELTA)], "upstream_reset"),
    ] {
        let rig = streaming(pieces, false);
        let body = r#"{"model":"resnet50","stream":true,"input":"hi"}"#;
        let response = rig.post("/v1/responses", JSON, body).await;
        let text = String::from_utf8(response.body.to_vec()).unwrap();
        let last =
            text.strip_prefix(DELTA).and_then(|text| text.strip_prefix("event: error\ndata: ")).unwrap();
        let event: serde_json::Value = serde_json::from_str(last).unwrap();
        assert_eq!((event["type"].as_str(), event["code"].as_str()), (Some("error"), Some(code)));
        assert_eq!(event["error"]["code"], code);
        assert!(!last.contains("srv"), "{last}");
    }
}

#[tokio::test]
async fn a_model_that_is_not_there_is_told_to_each_client_as_it_reads_errors() {
    let rig = engine().start();
    let v1 = rig.get("/v1/models/resnet5").await;
    assert_eq!((v1.status, v1.json()["code"].as_str()), (404, Some("model_not_found")));
    assert!(v1.json()["error"].is_string());
    let headers = "x-stainless-lang: python\r\n";
    let openai = rig.get_with("/v1/models/resnet5", headers).await;
    let error = &openai.json()["error"];
    assert_eq!((openai.status, error["code"].as_str()), (404, Some("model_not_found")));
    assert!(error["message"].is_string());
    let predict = rig.post("/v1/models/resnet5:predict", &format!("{JSON}{headers}"), "{}").await;
    assert!(predict.json()["error"].is_string(), "nobody but V1 predicts");
}

#[tokio::test]
async fn an_answer_that_is_no_stream_of_events_is_not_handed_on() {
    let rig = streaming(&[Ok("<html>"), Ok("</html>")], false);
    let (_, text) = streamed(&rig, STREAM).await;
    assert!(text.starts_with("data: {\"error\"") && text.contains("upstream_bad_response"), "{text}");
}

#[tokio::test]
async fn an_engine_that_falls_silent_is_given_up_on() {
    let rig = streaming(&[Ok(TOKEN)], true);
    let (_, text) = streamed(&rig, STREAM).await;
    assert!(
        text.contains("\"code\":\"deadline_exceeded\"") && text.contains("deadline.betweenTokens"),
        "{text}"
    );
    assert!(text.ends_with(DONE));
}

#[tokio::test]
async fn the_deadline_holds_for_the_whole_of_a_stream() {
    let rig = streaming(&[Ok(TOKEN)], true);
    let headers = format!("{JSON}x-request-timeout-ms: 50\r\n");
    let response = rig.post(CHAT, &headers, STREAM).await;
    let text = String::from_utf8(response.body.to_vec()).unwrap();
    assert!(text.contains("\"code\":\"deadline_exceeded\"") && !text.contains("betweenTokens"), "{text}");
}

/// Tells when it is dropped.
struct Leaving(mpsc::Sender<()>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.try_send(()).unwrap();
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_at_the_engine() {
    let (left, mut noticed) = mpsc::channel::<()>(1);
    let script = move |_: &_| {
        let rest = stream::unfold(Leaving(left.clone()), |leaving| async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Some((Ok(Bytes::from_static(TOKEN.as_bytes())), leaving))
        });
        let first = Bytes::from_static(TOKEN.as_bytes());
        Ok(Reply::Stream(StreamReply { headers: HeaderMap::new(), first, rest: rest.boxed() }))
    };
    let rig = Setup { script: Box::new(script), ..engine() }.start();
    let mut wire = rig.connect().await;
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\n{JSON}content-length: {}\r\n\r\n", STREAM.len());
    wire.send(format!("{head}{STREAM}")).await;
    rig.asked(1).await;
    assert!(noticed.try_recv().is_err());
    drop(wire);
    let stopped = tokio::time::timeout(Duration::from_secs(5), noticed.recv()).await;
    assert_eq!(stopped, Ok(Some(())));
}

#[tokio::test]
async fn an_answer_in_one_piece_passes_and_so_do_the_body_and_the_credential() {
    let rig = Setup { script: Box::new(echo), ..engine() }.start();
    let body = r#"{ "model" : "resnet50", "messages":[],"x":1.0, "service_tier":"flex", "max_tokens": 7 }"#;
    let headers = format!("{JSON}authorization: Bearer k\r\nx-other: y\r\n");
    let response = rig.post(CHAT, &headers, body).await;
    assert_eq!((response.status, &response.body[..]), (200, body.as_bytes()));
    let seen = rig.seen().pop().unwrap();
    let (sent, headers) = opaque(seen.payload);
    assert_eq!(sent, body);
    assert_eq!((headers["authorization"].as_bytes(), headers.get("x-other")), (&b"Bearer k"[..], None));
    let chat = seen.chat.unwrap();
    assert_eq!((seen.class, chat.delivery), (Class::Low, Delivery::Whole));
    assert_eq!(chat.output_tokens_max, Some(7));
    assert_ne!(&*seen.tenant, "");
    assert!(!seen.tenant.contains("Bearer"));
}

#[tokio::test]
async fn mistakes_are_told_in_openais_envelope() {
    let rig = engine().start();
    for (body, status, code) in [
        (r#"{"model":"resnet5","messages":[]}"#, 404, "model_not_found"),
        (r#"{"messages":[]}"#, 400, "bad_request"),
        (r#"{"model":"resnet50","stream":"yes"}"#, 400, "bad_request"),
        ("[]", 400, "bad_request"),
        (r#"{"model":"resnet50"} x"#, 400, "bad_json"),
    ] {
        let response = rig.post(CHAT, JSON, body).await;
        let error = &response.json()["error"];
        assert_eq!((response.status, error["code"].as_str().unwrap()), (status, code), "{body}");
        assert!(error["message"].is_string() && error["type"] == "invalid_request_error", "{error}");
    }
    let wrong_verb = rig.get(CHAT).await;
    assert_eq!((wrong_verb.status, wrong_verb.header("allow")), (405, "POST"));
}

#[tokio::test]
async fn requests_for_embeddings_are_rows_where_the_model_merges() {
    let script = |request: &pipeline::request::Request| {
        let Payload::Tensors(inference) = &request.payload else { return echo(request) };
        assert_eq!(inference.rows(), Some(2));
        let mut data = Vec::new();
        for index in 0..2 {
            let row = format!(
                r#"{{"object":"list","data":[{{"index":0,"embedding":[{index}]}}],"usage":{{"prompt_tokens":2,"total_tokens":2}}}}"#
            );
            data.extend_from_slice(&u32::try_from(row.len()).unwrap().to_le_bytes());
            data.extend_from_slice(row.as_bytes());
        }
        let answer = Tensor::new("answer", DataType::Bytes, vec![2], data.into());
        Ok(Reply::Tensors(Outcome { outputs: vec![answer], ..Outcome::default() }))
    };
    let rig = Setup { passes_through: false, script: Box::new(script), ..engine() }.start();
    let response = rig.post("/v1/embeddings", JSON, r#"{"model":"resnet50","input":["a","b"]}"#).await;
    let expected = serde_json::json!({
        "object": "list",
        "data": [{"index": 0, "embedding": [0]}, {"index": 1, "embedding": [1]}],
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    });
    assert_eq!((response.status, response.json()), (200, expected));
    let whole = rig.post("/v1/embeddings", JSON, r#"{"model":"resnet50","input":{"odd":1}}"#).await;
    assert_eq!(whole.status, 200, "what cannot be taken apart is the engine's to judge");
}
