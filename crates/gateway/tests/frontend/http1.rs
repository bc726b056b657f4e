//! HTTP/1 as attackers and broken clients write it.

use crate::rig::{Setup, Wire};
use gateway::{Config, Limits, Timeouts, upstream::Protocol};
use std::time::Duration;

const INFER: &str = "POST /v2/models/resnet50/infer HTTP/1.1\r\nhost: h\r\n";

#[tokio::test]
async fn malformed_requests_are_refused_and_the_connection_closed() {
    let rig = Setup::default().start();
    let long = "x".repeat(20_000);
    let many: String = (0..120).map(|n| format!("h{n}: v\r\n")).collect();
    for (request, status) in [
        ("garbage\r\n\r\n".to_owned(), 400),
        ("GET /v2 HTTP/9.9\r\nhost: h\r\n\r\n".to_owned(), 400),
        ("GET /v2\r\n\r\n".to_owned(), 400),
        ("GET /v2 HTTP/1.1\r\nhost: a\rb\r\n\r\n".to_owned(), 400),
        ("GET /v2 HTTP/1.1\r\nhost: h\r\n: v\r\n\r\n".to_owned(), 400),
        (format!("{INFER}content-length: 5, 5\r\n\r\n"), 400),
        (format!("{INFER}content-length: 5 5\r\n\r\n"), 400),
        (format!("{INFER}content-length: \r\n\r\n"), 400),
        (format!("{INFER}transfer-encoding: identity\r\n\r\n"), 400),
        (format!("{INFER}transfer-encoding : chunked\r\n\r\n"), 400),
        ("\u{16}\u{3}\u{1}\0\u{5}hello\r\n\r\n".to_owned(), 400),
        ("GET /v2 HTTP/1.1\r\nhost : h\r\n\r\n".to_owned(), 400),
        ("GET /v2 HTTP/1.1\r\nhost: h\r\n folded\r\n\r\n".to_owned(), 400),
        ("GET /v2 HTTP/1.1\r\nhost: h\r\nx: a\0b\r\n\r\n".to_owned(), 400),
        (format!("{INFER}content-length: 5, 6\r\n\r\n"), 400),
        (format!("{INFER}content-length: 5\r\ncontent-length: 6\r\n\r\n"), 400),
        (format!("{INFER}content-length: -1\r\n\r\n"), 400),
        (format!("{INFER}content-length: +5\r\n\r\n"), 400),
        (format!("{INFER}content-length: 0x5\r\n\r\n"), 400),
        (format!("{INFER}content-length: 18446744073709551616\r\n\r\n"), 400),
        (format!("{INFER}transfer-encoding: xchunked\r\n\r\n"), 400),
        (format!("{INFER}transfer-encoding: chunked, gzip\r\n\r\n"), 400),
        ("POST /v2 HTTP/1.0\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), 400),
        (format!("GET /v2 HTTP/1.1\r\nhost: h\r\nx: {long}\r\n\r\n"), 431),
        (format!("GET /v2 HTTP/1.1\r\nhost: h\r\n{many}\r\n"), 431),
    ] {
        let mut wire = rig.connect().await;
        wire.send(&request).await;
        let response = wire.response().await.unwrap_or_else(|| panic!("no answer to {request:?}"));
        assert_eq!(response.status, status, "{:?}", &request[..request.len().min(100)]);
        wire.rest().await;
    }
    assert!(rig.seen().is_empty());
}

#[tokio::test]
async fn host_and_uri_are_checked() {
    let rig = Setup::default().start();
    for (head, status) in [
        ("GET /v2 HTTP/1.1\r\n".to_owned(), 400),
        ("GET /v2 HTTP/1.1\r\nhost: a\r\nhost: b\r\n".to_owned(), 400),
        ("GET /v2 HTTP/1.1\r\nhost: user@a\r\n".to_owned(), 400),
        ("GET /v2 HTTP/1.0\r\n".to_owned(), 200),
        ("GET /v2 HTTP/1.1\r\nhost: a/b\r\n".to_owned(), 400),
        ("GET http://h/v2 HTTP/1.1\r\nhost: h\r\n".to_owned(), 200),
        ("GET http://user@h/v2 HTTP/1.1\r\nhost: h\r\n".to_owned(), 400),
        ("CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\n".to_owned(), 405),
        (format!("GET /v2?{} HTTP/1.1\r\nhost: h\r\n", "x".repeat(9000)), 414),
        (format!("GET /{} HTTP/1.1\r\nhost: h\r\n", "x".repeat(9000)), 414),
        ("GET /v2 HTTP/1.1\r\nhost: h\r\nupgrade: h2c\r\nconnection: upgrade\r\n".to_owned(), 200),
        ("GET /v2 HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\nconnection: upgrade\r\n".to_owned(), 200),
    ] {
        let response = rig.raw(format!("{head}\r\n")).await;
        assert_eq!(response.status, status, "{:?}", &head[..head.len().min(80)]);
    }
}

#[tokio::test]
async fn verbs_are_checked_and_head_is_get_without_a_body() {
    let rig = Setup::default().start();
    for verb in ["OPTIONS", "TRACE", "PUT", "DELETE", "POST"] {
        let response = rig.raw(format!("{verb} /v2/health/live HTTP/1.1\r\nhost: h\r\n\r\n")).await;
        assert_eq!((response.status, response.header("allow")), (405, "GET, HEAD"), "{verb}");
        assert_eq!(response.reason(), "method_not_allowed");
    }
    let infer = rig.get("/v2/models/resnet50/infer").await;
    assert_eq!((infer.status, infer.header("allow")), (405, "POST"));

    let mut wire = rig.connect().await;
    wire.send("HEAD /v2 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
    let answer = String::from_utf8(wire.rest().await).unwrap();
    let length = rig.get("/v2").await.body.len();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(&format!("content-length: {length}\r\n")), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_second_length_cannot_smuggle_a_request() {
    let rig = Setup::passing(Protocol::V2Http).start();
    let mut wire = rig.connect().await;
    wire.send(format!(
        "{INFER}content-length: 50\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n\
         GET /v2/health/live HTTP/1.1\r\nhost: smuggled\r\n\r\n"
    ))
    .await;
    let first = wire.response().await.unwrap();
    assert_eq!((first.status, &first.body[..]), (200, &b"{}"[..]));
    assert_eq!(wire.rest().await, b"", "nothing after the first answer");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let rig = Setup::default().start();
    let mut wire = rig.connect().await;
    wire.send(
        "GET /v2/health/live HTTP/1.1\r\nhost: h\r\n\r\nGET /nothing HTTP/1.1\r\nhost: h\r\n\r\n\
         GET /v2 HTTP/1.1\r\nhost: h\r\n\r\n",
    )
    .await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(wire.response().await.unwrap().status);
    }
    assert_eq!(statuses, [200, 404, 200]);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let config = Config { limits: Limits { body: 1 << 20, ..Limits::default() }, ..Config::default() };
    let rig = Setup { config, ..Setup::passing(Protocol::V2Http) }.start();
    let mut wire = rig.connect().await;
    wire.send(format!("{INFER}expect: 100-continue\r\ncontent-length: 1048577\r\n\r\n")).await;
    let refused = wire.response().await.unwrap();
    assert_eq!((refused.status, refused.reason()), (413, "body_too_large"));
    assert!(refused.json()["error"].as_str().unwrap().contains("1.0 MiB"), "{refused:?}");

    let mut wire = rig.connect().await;
    wire.send(format!("{INFER}expect: 100-continue\r\ncontent-length: 2\r\n\r\n")).await;
    assert_eq!(wire.response().await.unwrap().status, 100);
    wire.send("{}").await;
    assert_eq!(wire.response().await.unwrap().status, 200);

    let chunk = "x".repeat(1 << 19);
    let mut wire = rig.connect().await;
    wire.send(format!("{INFER}transfer-encoding: chunked\r\n\r\n")).await;
    for _ in 0..3 {
        wire.send(format!("80000\r\n{chunk}\r\n")).await;
    }
    assert_eq!(wire.response().await.unwrap().status, 413);
    assert_eq!(rig.seen().len(), 1);
}

#[tokio::test]
async fn a_body_cut_short_is_never_dispatched() {
    let rig = Setup::passing(Protocol::V2Http).start();
    let mut wire = rig.connect().await;
    wire.send(format!("{INFER}content-length: 10\r\n\r\n{{}}")).await;
    tokio::io::AsyncWriteExt::shutdown(&mut wire.stream).await.unwrap();
    let rest = String::from_utf8(wire.rest().await).unwrap();
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 400"), "{rest}");

    let mut wire = rig.connect().await;
    wire.send(format!("{INFER}transfer-encoding: chunked\r\n\r\nzz\r\n")).await;
    assert_eq!(wire.response().await.unwrap().status, 400);
    assert!(rig.seen().is_empty());
    assert_eq!(rig.memory.available(), 64 << 20);
}

#[tokio::test]
async fn chunks_are_bounded_in_every_way() {
    let rig = Setup::passing(Protocol::V2Http).start();
    let extension = "x".repeat(20_000);
    let trailers = "a: b\r\n".repeat(20_000);
    for (chunks, status) in [
        ("2\r\n{}\r\n0\r\n\r\n".to_owned(), 200),
        ("2\r\n{}\r\n0\r\na: b\r\n\r\n".to_owned(), 200),
        ("fffffffffffffffff\r\n{}".to_owned(), 400),
        ("0x2\r\n{}\r\n0\r\n\r\n".to_owned(), 400),
        ("-2\r\n{}\r\n0\r\n\r\n".to_owned(), 400),
        ("2\n{}\n0\n\n".to_owned(), 400),
        (format!("2;{extension}\r\n{{}}\r\n0\r\n\r\n"), 400),
        (format!("2\r\n{{}}\r\n0\r\n{trailers}\r\n"), 400),
    ] {
        let response = rig.raw(format!("{INFER}transfer-encoding: chunked\r\n\r\n{chunks}")).await;
        assert_eq!(response.status, status, "{:?}", &chunks[..chunks.len().min(40)]);
        let reason = if status == 400 { "bad_request" } else { "" };
        assert_eq!(response.reason(), reason, "{:?}", &chunks[..chunks.len().min(40)]);
    }
    assert_eq!(rig.seen().len(), 2);
}

#[tokio::test]
async fn a_refusal_before_the_body_came_leaves_the_connection_usable() {
    let rig = Setup::passing(Protocol::V2Http).start();
    let mut wire = rig.connect().await;
    for (headers, status) in [
        ("content-type: text/plain\r\n", 415),
        ("inference-header-content-length: x\r\n", 400),
        ("x-request-timeout-ms: x\r\n", 400),
        ("content-encoding: br\r\n", 415),
        ("", 200),
    ] {
        wire.send(format!("{INFER}{headers}content-length: 2\r\n\r\n")).await;
        tokio::task::yield_now().await;
        wire.send("{}").await;
        let response = wire.response().await.unwrap_or_else(|| panic!("closed before {headers:?}"));
        assert_eq!(response.status, status, "{headers:?}");
    }
    let long = 10 << 20;
    wire.send(format!("{INFER}content-type: text/plain\r\ncontent-length: {long}\r\n\r\n")).await;
    assert_eq!(wire.response().await.unwrap().status, 415);
    assert_eq!(wire.rest().await, b"", "a long body is not read only to be thrown away");
}

#[tokio::test]
async fn many_bodies_that_are_announced_and_do_not_come_leave_memory_to_others() {
    let rig = Setup::passing(Protocol::V2Http).start();
    let mut greedy = Vec::new();
    for _ in 0..20 {
        let mut wire = rig.connect().await;
        wire.send(format!("{INFER}content-length: 67108864\r\n\r\n{{")).await;
        greedy.push(wire);
    }
    let response = rig.post("/v2/models/resnet50/infer", "", "{}").await;
    assert_eq!(response.status, 200);
    assert!(rig.memory.available() >= (64 << 20) - (2 << 20), "{}", rig.memory.available());
}

fn hasty() -> Config {
    let timeouts = Timeouts {
        first_byte: Duration::from_millis(100),
        header: Duration::from_millis(100),
        body_idle: Duration::from_millis(100),
        idle: Duration::from_millis(100),
    };
    Config { timeouts, ..Config::default() }
}

#[tokio::test]
async fn a_trickling_body_is_timed_out() {
    let rig = Setup { config: hasty(), ..Setup::passing(Protocol::V2Http) }.start();
    let mut wire = rig.connect().await;
    wire.send(format!("{INFER}content-length: 10\r\n\r\n{{")).await;
    let response = wire.response().await.unwrap();
    assert_eq!((response.status, response.reason()), (408, "request_timeout"));
}

#[tokio::test]
async fn silence_half_a_preface_half_a_head_and_idleness_end_the_connection() {
    let rig = Setup { config: hasty(), ..Setup::default() }.start();
    for start in ["", "P", "PRI", "GET /v2 HTTP/1.1\r\nhost: h\r\nx:"] {
        let mut wire: Wire = rig.connect().await;
        wire.send(start).await;
        assert_eq!(wire.rest().await, b"", "{start:?}");
    }
    let mut idle = rig.connect().await;
    idle.send("GET /v2 HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(idle.response().await.unwrap().status, 200);
    assert_eq!(idle.rest().await, b"");
}
