//! Chat completions, from servers that are right, broken, slow or not read, on free loopback ports.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::mpsc,
    time::Duration,
};

use serde_json::Value;

use super::{PROGRAM, Upstream};

/// A server that reads one request per connection, tells the test its body, and answers with these bytes.
fn scripted(answer: &'static str) -> (String, mpsc::Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("it listens"));
    let (requests, seen) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("the test connects");
            if requests.send(request(&mut stream)).is_err() {
                return;
            }
            stream.write_all(answer.as_bytes()).expect("the test reads");
        }
    });
    (url, seen)
}

/// The head and the body of a request.
fn request(stream: &mut TcpStream) -> (String, Value) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).expect("the test writes");
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    reader.read_exact(&mut body).expect("the test writes");
    (head, serde_json::from_slice(&body).expect("a body of JSON"))
}

fn loadtest(args: &[&str]) -> (Option<i32>, Value) {
    let chat = ["-q", "-o", "json", "--max-lag", "10s", "--protocol", "chat", "--model", "any"];
    let output = Command::new(PROGRAM).args(chat).args(args).output().expect("it runs");
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|_| String::from_utf8_lossy(&output.stderr).into()))
}

#[test]
fn streams_and_whole_answers_are_read_to_their_end() {
    let upstream = Upstream::start(&[]);
    for (args, frames, bytes) in [(&["--stream"][..], 1400, 300), (&[], 200, 300)] {
        let quick = [&upstream.url, "--rate", "200", "--duration", "1s", "--spacing", "constant"];
        let lengths = ["--prompt-tokens", "64", "--output-tokens", "7"];
        let (code, report) = loadtest(&[&quick[..], &lengths, args].concat());
        assert_eq!(code, Some(0), "{report}");
        assert_eq!((&report["ok"], &report["requests"]), (&200.into(), &200.into()), "{report}");
        assert_eq!((&report["chat"]["tokens"], &report["chat"]["frames"]), (&1400.into(), &frames.into()));
        assert!(report["request_bytes"].as_u64() > Some(bytes), "{report}");
        assert!(report["connections_opened"].as_u64() < Some(100), "connections are used again: {report}");
    }
}

#[test]
fn both_versions_of_http_carry_streams() {
    let upstream = Upstream::start(&[]);
    let (code, report) = loadtest(&[&upstream.url, "--burst", "100", "--stream", "--http2"]);
    assert_eq!((code, &report["ok"], &report["chat"]["tokens"]), (Some(0), &100.into(), &10_000.into()));
}

#[test]
fn every_turn_of_every_session_is_sent_and_a_count_of_sessions_is_kept() {
    let upstream = Upstream::start(&[]);
    let sessions = ["--sessions", "20", "--rate", "100", "--turns", "4", "--think", "20ms", "--stream"];
    let (code, report) = loadtest(&[&[upstream.url.as_str()], &sessions[..]].concat());
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["ok"], 80, "{report}");
}

#[test]
fn sessions_whose_users_think_are_under_way_too() {
    let upstream = Upstream::start(&[]);
    let sessions = ["--burst", "30", "--turns", "2", "--think", "500ms", "--outstanding", "10"];
    let (code, report) = loadtest(&[&[upstream.url.as_str()], &sessions[..]].concat());
    assert_eq!((code, &report["ok"], &report["requests"]), (Some(1), &20.into(), &40.into()), "{report}");
    assert!(report["void"].as_str().is_some_and(|void| void.contains("--outstanding")), "{report}");
}

#[test]
fn a_broken_stream_is_a_failure_of_its_own_kind() {
    const CUT: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n\
        data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    const UNFINISHED: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
        data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    const ERROR: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nconnection: close\r\n\r\n\
        data: {\"error\":{\"message\":\"gone\",\"code\":\"upstream_reset\"}}\n\ndata: [DONE]\n\n";
    const WHOLE: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    for (answer, kind) in [
        (CUT, "stream_broken_off"),
        (UNFINISHED, "stream_unfinished"),
        (ERROR, "stream_error"),
        (WHOLE, "bad_response"),
    ] {
        let (url, _seen) = scripted(answer);
        let (code, report) = loadtest(&[&url, "--burst", "1", "--stream"]);
        assert_eq!((code, &report["outcomes"][0]["kind"]), (Some(1), &kind.into()), "{report}");
    }
    let (url, _seen) = scripted(ERROR);
    let (_, report) = loadtest(&[&url, "--burst", "1", "--stream"]);
    assert_eq!(report["outcomes"][0]["code"], "upstream_reset");
}

#[test]
fn a_request_says_whose_it_is_and_how_urgent() {
    let (url, seen) = scripted("HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n");
    let args =
        ["--tenant", "red", "--service-tier", "flex", "--deadline", "2s", "--session-header", "x-session-id"];
    let (_, report) = loadtest(&[&[url.as_str(), "--burst", "1", "-H", "x-extra: 7"], &args[..]].concat());
    assert_eq!(
        (&report["outcomes"][0]["kind"], &report["outcomes"][0]["status"]),
        (&"http".into(), &429.into())
    );
    let (head, body) = seen.recv_timeout(Duration::from_secs(10)).expect("it was sent");
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{head}");
    for header in ["x-request-timeout-ms: ", "x-session-id: session-1-0", "x-extra: 7"] {
        assert!(head.contains(header), "{head}");
    }
    assert_eq!((&body["user"], &body["service_tier"]), (&"red".into(), &"flex".into()));
    assert_eq!((&body["stream"], &body["max_tokens"]), (&Value::Null, &100.into()));
}

#[test]
fn a_trace_gives_the_lengths_of_its_calls() {
    let path = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("azure.csv");
    std::fs::write(
        &path,
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6,10,3\n2023-11-16 18:15:46.7,20,4\n",
    )
    .expect("a scratch file");
    let upstream = Upstream::start(&[]);
    let lengths = ["--prompt-tokens", "trace", "--output-tokens", "trace"];
    let trace = ["--trace", path.to_str().expect("it is UTF-8")];
    let (code, report) = loadtest(&[&[upstream.url.as_str()], &lengths[..], &trace].concat());
    assert_eq!((code, &report["ok"], &report["chat"]["tokens"]), (Some(0), &2.into(), &7.into()), "{report}");
    let (code, message) = loadtest(&[&[upstream.url.as_str()], &lengths[..]].concat());
    assert_eq!(code, Some(1));
    assert!(message.as_str().is_some_and(|message| message.contains("--trace FILE")), "{message}");
}

#[test]
fn streams_that_nobody_reads_are_opened_first_and_not_counted() {
    let upstream = Upstream::start(&[]);
    let args = ["--burst", "5", "--stream", "--stalled", "3", "--output-tokens", "2"];
    let (code, report) = loadtest(&[&[upstream.url.as_str()], &args[..]].concat());
    assert_eq!((code, &report["requests"], &report["stalled"]), (Some(0), &5.into(), &3.into()), "{report}");
    let (url, _seen) = scripted("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    let (code, message) = loadtest(&[&url, "--burst", "1", "--stream", "--stalled", "1"]);
    assert_eq!(code, Some(1));
    assert!(
        message.as_str().is_some_and(|m| m.contains("stalled reader 0") && m.contains("503")),
        "{message}"
    );
}
