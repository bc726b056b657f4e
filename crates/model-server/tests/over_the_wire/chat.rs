//! The simulated chat engine on a real socket.

use std::{num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use model_server::chat::{Counts, Options, Running, Simulator, Times};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::client::Rest;

const CHAT: &str = "/v1/chat/completions";

async fn start(change: impl FnOnce(&mut Options)) -> Running {
    let mut options = Options { times: Times::none(), ..Options::default() };
    change(&mut options);
    Simulator::start(options).await.unwrap()
}

fn chat(stream: bool, tokens: usize) -> String {
    json!({"model": "sim", "stream": stream, "max_tokens": tokens, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "one two three"}]})
    .to_string()
}

/// The data of each event but `[DONE]`, which has to be the last.
fn events(text: &str) -> Vec<Value> {
    let events = text.strip_suffix("data: [DONE]\n\n").unwrap();
    let data = |event: &str| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
    events.split_terminator("\n\n").map(data).collect()
}

fn said(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
}

/// Waits until the engine has counted what is looked for.
async fn until(engine: &Running, found: impl Fn(Counts) -> bool) -> Counts {
    let counted = tokio::time::timeout(Duration::from_secs(10), async {
        while !found(engine.counts()) {
            tokio::task::yield_now().await;
        }
    });
    counted.await.unwrap_or_else(|_| panic!("{:?}", engine.counts()));
    engine.counts()
}

/// A call on a connection of its own, of which the test reads what it likes.
async fn raw_call(engine: &Running, fail: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(engine.address()).await.unwrap();
    let length = body.len();
    let head =
        format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nx-sim-fail: {fail}\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_chat_is_answered_alike_in_one_piece_as_a_stream_and_over_both_protocols() {
    let engine = start(|_| {}).await;
    let mut rest = Rest::connect(engine.address()).await;
    let whole = rest.post(CHAT, &[], chat(false, 5)).await.json();
    let text = "one two three one two";
    assert_eq!(whole["choices"][0]["message"]["content"], text);

    let reply = rest.post(CHAT, &[], chat(true, 5)).await;
    assert!(reply.headers["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    let streamed = events(&reply.text());
    assert_eq!(said(&streamed), text);
    assert_eq!(streamed.last().unwrap()["usage"]["completion_tokens"], 5);
    assert_eq!(streamed.last().unwrap()["usage"]["prompt_tokens"], whole["usage"]["prompt_tokens"]);

    let stream = TcpStream::connect(engine.address()).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("http://x{CHAT}")).body(Full::new(Bytes::from(chat(true, 5))));
    let response = sender.send_request(request.unwrap()).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(said(&events(std::str::from_utf8(&body).unwrap())), text);

    let counts = engine.counts();
    assert_eq!((counts.requests, counts.finished, counts.generation_tokens), (3, 3, 15));
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn every_event_is_a_frame_of_its_own_even_where_no_time_passes() {
    let engine = start(|_| {}).await;
    let body = chat(true, 50);
    let mut raw = String::new();
    let mut stream = TcpStream::connect(engine.address()).await.unwrap();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.read_to_string(&mut raw).await.unwrap();
    let (_, chunks) = raw.split_once("\r\n\r\n").unwrap();
    let sizes = chunks.split("\r\n").step_by(2).filter(|size| !size.is_empty() && *size != "0").count();
    // The role, fifty tokens, the usage and the end.
    assert_eq!(sizes, 53, "{raw}");
    assert_eq!(chunks.matches("data: ").count(), 53);
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_and_its_slot_is_free() {
    let engine = start(|options| options.slots = NonZeroUsize::MIN).await;
    for (left, stream) in [(1, true), (2, false)] {
        let call = raw_call(&engine, "stall@3", &chat(stream, 5)).await;
        until(&engine, |counts| counts.running == 1 && counts.generation_tokens == 3 * left).await;
        let waiting = raw_call(&engine, "truncate", &chat(true, 5)).await;
        until(&engine, |counts| counts.waiting == 1).await;
        drop(waiting);
        until(&engine, |counts| counts.waiting == 0).await;
        drop(call);
        let counts = until(&engine, |counts| counts.running == 0).await;
        assert_eq!((counts.cancelled, counts.finished), (left * 2, 0));
    }
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn an_http2_stream_that_is_reset_is_noticed_while_its_connection_stays() {
    let engine = start(|_| {}).await;
    let stream = TcpStream::connect(engine.address()).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("http://x{CHAT}")).header("x-sim-fail", "stall@2");
    let request = request.body(Full::new(Bytes::from(chat(true, 5)))).unwrap();
    let response = sender.send_request(request).await.unwrap();
    until(&engine, |counts| counts.running == 1).await;
    drop(response);
    until(&engine, |counts| counts.running == 0 && counts.cancelled == 1).await;
    let request = Request::get("http://x/health").body(Full::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::OK);
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn a_reset_breaks_the_connection_off_after_the_tokens_it_was_to_come_after() {
    let engine = start(|_| {}).await;
    for (fail, stream, tokens) in [("reset", false, 0), ("reset", true, 0), ("reset@3", true, 3)] {
        let mut call = raw_call(&engine, fail, &chat(stream, 5)).await;
        let mut read = Vec::new();
        // Whether the end or an error comes depends on what the kernel had not read yet.
        let _ = call.read_to_end(&mut read).await;
        let read = String::from_utf8(read).unwrap();
        assert_eq!(read.is_empty(), tokens == 0, "{fail}: {read}");
        assert_eq!(read.matches(r#""delta":{"content":"#).count(), tokens, "{fail}: {read}");
        assert!(!read.ends_with("0\r\n\r\n"), "{fail}: {read}");
    }
    assert_eq!(engine.counts().failed, 3);
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn a_full_engine_turns_calls_away_until_there_is_room() {
    let engine = start(|options| {
        options.slots = NonZeroUsize::MIN;
        options.queue = 0;
    })
    .await;
    let mut rest = Rest::connect(engine.address()).await;
    let call = raw_call(&engine, "stall", &chat(true, 5)).await;
    until(&engine, |counts| counts.running == 1).await;
    let refused = rest.post(CHAT, &[], chat(false, 5)).await;
    assert_eq!((refused.status.as_u16(), &refused.headers["retry-after"]), (503, &"1".parse().unwrap()));
    assert_eq!(refused.json()["error"]["code"], "engine_full");
    drop(call);
    until(&engine, |counts| counts.running == 0).await;
    assert_eq!(rest.post(CHAT, &[], chat(false, 5)).await.status, StatusCode::OK);
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn what_was_asked_before_is_cached_until_the_reset() {
    let engine = start(|_| {}).await;
    let mut rest = Rest::connect(engine.address()).await;
    let body = json!({"model": "sim", "prompt": "x".repeat(1000), "max_tokens": 1}).to_string();
    let mut cached = Vec::new();
    for path in ["/v1/completions", "/v1/completions", "/sim/reset", "/v1/completions"] {
        let answer = rest.post(path, &[], body.clone()).await.json();
        cached.push(answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64());
    }
    assert_eq!(cached, [Some(0), Some(240), None, Some(0)]);
    let stats = rest.get("/sim/stats").await.json();
    assert_eq!((&stats["requests"], &stats["prompt_tokens"]), (&json!(1), &json!(250)));
    let metrics = rest.get("/metrics").await.text();
    assert!(metrics.contains("\nchat_sim_prompt_tokens_total 250\n"), "{metrics}");
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn embeddings_rerank_and_responses_are_answered_too() {
    let engine = start(|_| {}).await;
    let mut rest = Rest::connect(engine.address()).await;
    let models = rest.get("/v1/models").await.json();
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][0]["owned_by"]),
        (&json!("sim"), &json!("tidegate-chat-simulator"))
    );
    let body = json!({"model": "sim", "input": ["a", "b"], "dimensions": 8}).to_string();
    let answer = rest.post("/v1/embeddings", &[], body).await.json();
    assert_eq!(answer["data"][1]["embedding"].as_array().unwrap().len(), 8);
    let body = json!({"model": "sim", "query": "a b", "documents": ["c", "b a"]}).to_string();
    let answer = rest.post("/v1/rerank", &[], body).await.json();
    assert_eq!(answer["results"][0]["index"], 1);
    let body = json!({"model": "sim", "input": "a b", "stream": true}).to_string();
    let answer = rest.post("/v1/responses", &[], body).await.text();
    assert!(answer.starts_with("event: response.created\n"), "{answer}");
    assert!(answer.contains("event: response.completed\n"), "{answer}");
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn bad_calls_are_refused_in_the_envelope_that_clients_read() {
    let engine = start(|_| {}).await;
    let mut rest = Rest::connect(engine.address()).await;
    for (method, path, body, status, code) in [
        ("POST", CHAT, "{", 400, "invalid_request"),
        ("POST", CHAT, r#"{"model":"x","messages":[]}"#, 404, "model_not_found"),
        ("POST", CHAT, r#"{"model":"sim","messages":[]}"#, 400, "invalid_request"),
        ("GET", CHAT, "", 405, "method_not_allowed"),
        ("POST", "/v1/audio", "", 404, "route_not_found"),
    ] {
        let reply = rest.call(method, path, &[], body).await;
        assert_eq!(reply.status.as_u16(), status, "{body}: {}", reply.text());
        let error = &reply.json()["error"];
        assert_eq!(error["code"], code, "{error}");
        assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
    }
    let mut stream = TcpStream::connect(engine.address()).await.unwrap();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", (64 << 20) + 1);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 413");
    drop(stream);
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn a_stop_lets_streams_end_unless_they_take_too_long() {
    let engine = start(|options| options.times.tpot = Duration::from_millis(1)).await;
    let mut call = raw_call(&engine, "no-done", &chat(true, 100)).await;
    until(&engine, |counts| counts.generation_tokens > 0).await;
    engine.stop().await.unwrap();
    let mut read = String::new();
    call.read_to_string(&mut read).await.unwrap();
    assert!(read.contains(r#""finish_reason":"length""#) && read.ends_with("0\r\n\r\n"), "{read}");

    let engine = start(|options| options.drain = Duration::from_millis(20)).await;
    let call = raw_call(&engine, "stall", &chat(true, 5)).await;
    until(&engine, |counts| counts.running == 1).await;
    assert_eq!(engine.stop().await.unwrap_err().connections, 1);
    drop(call);
}

#[tokio::test]
async fn a_killed_engine_cuts_its_streams() {
    let engine = start(|_| {}).await;
    let mut call = raw_call(&engine, "stall@2", &chat(true, 5)).await;
    until(&engine, |counts| counts.generation_tokens == 2).await;
    engine.kill();
    let mut read = Vec::new();
    let _ = call.read_to_end(&mut read).await;
    assert!(!read.ends_with(b"0\r\n\r\n"));
}
