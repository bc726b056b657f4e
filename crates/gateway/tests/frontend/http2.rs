//! HTTP/2 as attackers write it: raw frames, since no client would send them.

use std::time::Duration;

use gateway::upstream::Protocol;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::rig::{Rig, Setup};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const WHOLE: u8 = END_STREAM | END_HEADERS;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as literals that are never indexed, without Huffman coding.
fn fields<'f>(fields: impl IntoIterator<Item = (&'f str, &'f str)>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10);
        for text in [name, value] {
            push_length(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn push_length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        return block.push(u8::try_from(length).unwrap());
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

fn head<'f>(method: &'f str, path: &'f str) -> [(&'f str, &'f str); 4] {
    [(":method", method), (":scheme", "http"), (":path", path), (":authority", "h")]
}

fn get() -> Vec<u8> {
    fields(head("GET", "/v2"))
}

fn post() -> Vec<u8> {
    fields(head("POST", "/v2/models/resnet50/infer"))
}

/// `GET /v2` with more fields, cut into frames as long as allowed.
fn get_with<'f>(more: impl IntoIterator<Item = (&'f str, &'f str)>) -> Vec<u8> {
    let block = fields(head("GET", "/v2").into_iter().chain(more));
    let mut pieces = block.chunks(16_384).peekable();
    let mut frames = Vec::new();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        let flags = last | if kind == HEADERS { END_STREAM } else { 0 };
        frames.extend(frame(kind, flags, 1, piece));
        kind = CONTINUATION;
    }
    frames
}

/// What the gateway says to frames that follow a good preface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// An answer with this status on stream 1.
    Status(u16),
    /// The last stream was reset.
    Reset(u32),
    GoAway(u32),
    /// The connection ended without a word.
    Closed,
}

struct Client {
    stream: TcpStream,
}

impl Client {
    async fn connect(rig: &Rig) -> Self {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, b"")).await.unwrap();
        let mut client = Self { stream };
        while client.read().await.unwrap().0 != WINDOW_UPDATE {}
        client.send(&frame(SETTINGS, ACK, 0, b"")).await;
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        // The gateway may close while we still write: what it said is read all the same.
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next frame: its kind, stream and payload.
    async fn read(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, _flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some((kind, u32::from_be_bytes(stream), payload))
    }

    async fn verdict(&mut self) -> Verdict {
        timeout(Duration::from_secs(10), self.read_verdict()).await.expect("a verdict in time")
    }

    async fn read_verdict(&mut self) -> Verdict {
        while let Some((kind, _, payload)) = self.read().await {
            match kind {
                HEADERS => return Verdict::Status(status(&payload)),
                RST_STREAM => return Verdict::Reset(code(&payload)),
                GOAWAY => return Verdict::GoAway(code(&payload[4..])),
                _ => {}
            }
        }
        Verdict::Closed
    }

    /// The reason for which the connection ends, whatever is said of its streams before.
    async fn end(&mut self) -> Verdict {
        loop {
            match self.verdict().await {
                Verdict::Status(_) | Verdict::Reset(_) => {}
                end => return end,
            }
        }
    }
}

fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

/// The status that begins an answer: indexed, or a literal after the index of its name.
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may come first.
    let block = if block[0] & 0xe0 == 0x20 { &block[1..] } else { block };
    match block {
        [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        [0x48, length, text @ ..] if length & 0x80 != 0 => huffman_digits(text),
        [0x48, 3, text @ ..] => std::str::from_utf8(&text[..3]).unwrap().parse().unwrap(),
        other => panic!("no status: {other:?}"),
    }
}

/// Three digits in Huffman's code: 0 to 2 take five bits, 3 to 9 six.
fn huffman_digits(text: &[u8]) -> u16 {
    let mut bits = text.iter().flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
    (0..3).fold(0, |number, _| {
        let five = bits.by_ref().take(5).fold(0, |code, bit| code << 1 | bit);
        let digit = if five < 3 { five } else { (five << 1 | bits.next().unwrap()) - 0x19 + 3 };
        number * 10 + digit
    })
}

#[test]
fn statuses_are_read() {
    assert_eq!(status(&[0x88]), 200);
    assert_eq!(status(&[0x3f & 0x20, 0x48, 3, b'4', b'3', b'1']), 431);
    // 4 = 011010, 3 = 011001, 1 = 00001
    assert_eq!(status(&[0x48, 0x83, 0b0110_1001, 0b1001_0000, 0b1111_1111]), 431);
}

#[tokio::test]
async fn malformed_requests_and_frames_get_the_error_of_the_protocol() {
    use Verdict::{GoAway, Reset, Status};
    let rig = Setup::passing(Protocol::V2Http).start();
    let whole = |block: &[u8]| frame(HEADERS, WHOLE, 1, block);
    let more = |name, value| whole(&fields(head("GET", "/v2").into_iter().chain([(name, value)])));
    let sized = |length| {
        let block =
            fields(head("POST", "/v2/models/resnet50/infer").into_iter().chain([("content-length", length)]));
        [frame(HEADERS, END_HEADERS, 1, &block), frame(DATA, END_STREAM, 1, b"123456789")].concat()
    };
    let opened = frame(HEADERS, END_HEADERS, 1, &post());
    let long = format!("/{}", "x".repeat(9000));
    let without_path = [(":method", "GET"), (":scheme", "http"), (":authority", "h")];
    for (what, bytes, verdict) in [
        ("a good request", whole(&get()), Status(200)),
        ("two paths", more(":path", "/v2"), Reset(PROTOCOL_ERROR)),
        ("no path", whole(&fields(without_path)), Reset(PROTOCOL_ERROR)),
        ("an empty path", whole(&fields(head("GET", ""))), Reset(PROTOCOL_ERROR)),
        ("a path without slash", whole(&fields(head("GET", "v2"))), Reset(PROTOCOL_ERROR)),
        ("a long path", whole(&fields(head("GET", &long))), Status(414)),
        ("an uppercase name", more("X-A", "b"), GoAway(PROTOCOL_ERROR)),
        ("a connection header", more("connection", "close"), Reset(PROTOCOL_ERROR)),
        ("a transfer encoding", more("transfer-encoding", "chunked"), Reset(PROTOCOL_ERROR)),
        ("a te of gzip", more("te", "gzip"), Reset(PROTOCOL_ERROR)),
        ("a pseudo-header of answers", more(":status", "200"), Reset(PROTOCOL_ERROR)),
        ("a carriage return", more("a", "b\rc"), GoAway(PROTOCOL_ERROR)),
        (
            "user information",
            whole(&fields(head("GET", "/v2").map(|(n, v)| (n, if v == "h" { "u@h" } else { v })))),
            Status(400),
        ),
        ("CONNECT", whole(&fields([(":method", "CONNECT"), (":authority", "h:80")])), Status(405)),
        ("a wrong length", sized("5"), Reset(PROTOCOL_ERROR)),
        ("a length with a sign", sized("+9"), Reset(PROTOCOL_ERROR)),
        ("data on stream 0", frame(DATA, 0, 0, b"x"), GoAway(PROTOCOL_ERROR)),
        ("data on an idle stream", frame(DATA, 0, 5, b"x"), GoAway(PROTOCOL_ERROR)),
        ("an even stream", frame(HEADERS, WHOLE, 2, &get()), GoAway(PROTOCOL_ERROR)),
        ("a push", frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02"), GoAway(PROTOCOL_ERROR)),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &get()), GoAway(PROTOCOL_ERROR)),
        (
            "an interrupted head",
            [frame(HEADERS, 0, 1, &get()), frame(PING, 0, 0, b"12345678")].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        ("an index beyond the table", whole(b"\xff\xff\xff\xff\x0f"), GoAway(PROTOCOL_ERROR)),
        (
            "a frame of 16 MiB",
            frame(DATA, 0, 1, &[])
                .into_iter()
                .enumerate()
                .map(|(i, b)| if i < 3 { 0xff } else { b })
                .collect(),
            GoAway(FRAME_SIZE_ERROR),
        ),
        ("a ping of one byte", frame(PING, 0, 0, b"x"), GoAway(PROTOCOL_ERROR)),
        (
            "a window beyond 2^31",
            frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes()),
            GoAway(FLOW_CONTROL_ERROR),
        ),
        (
            "an initial window beyond 2^31",
            frame(SETTINGS, 0, 0, b"\0\x04\xff\xff\xff\xff"),
            GoAway(PROTOCOL_ERROR),
        ),
        (
            "a priority of itself",
            [opened.clone(), frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 0])].concat(),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "a kind of frame from the future",
            [frame(0x77, 0xff, 0, b"?"), whole(&get())].concat(),
            Status(200),
        ),
    ] {
        let mut client = Client::connect(&rig).await;
        client.send(&bytes).await;
        assert_eq!(client.verdict().await, verdict, "{what}");
    }
    assert!(rig.seen().is_empty(), "{:?}", rig.seen());
}

#[tokio::test]
async fn heads_are_limited_in_bytes_and_in_fields() {
    use Verdict::{GoAway, Status};
    let rig = Setup::default().start();
    let (large, too_large) = ("b".repeat(15_000), "b".repeat(17_000));
    let many = |name, count| get_with(std::iter::repeat_n((name, ""), count));
    for (what, bytes, verdict) in [
        ("15 KB", get_with([("a", large.as_str())]), Status(200)),
        ("17 KB", get_with([("a", too_large.as_str())]), Status(431)),
        ("96 fields", many("a", 96), Status(200)),
        ("101 fields", many("a", 101), Status(431)),
        ("101 crumbs of cookies", many("cookie", 101), Status(431)),
        ("10,000 crumbs of cookies", many("cookie", 10_000), GoAway(ENHANCE_YOUR_CALM)),
    ] {
        let mut client = Client::connect(&rig).await;
        client.send(&bytes).await;
        assert_eq!(client.verdict().await, verdict, "{what}");
    }
}

/// Sends what `make` gives for streams 1, 3, 5… `count` times, or until the connection is closed.
async fn flood(rig: &Rig, count: u32, make: impl Fn(u32) -> Vec<u8>) -> Verdict {
    let mut client = Client::connect(rig).await;
    let bytes: Vec<u8> = (0..count).flat_map(|n| make(2 * n + 1)).collect();
    client.send(&bytes).await;
    client.end().await
}

#[tokio::test]
async fn floods_end_the_connection() {
    use Verdict::{Closed, GoAway};
    let rig = Setup { gated: true, ..Setup::passing(Protocol::V2Http) }.start();
    let open = |stream| frame(HEADERS, END_HEADERS, stream, &post());
    let cancel = [0, 0, 0, 8];
    let expected = |verdict| matches!(verdict, GoAway(ENHANCE_YOUR_CALM | PROTOCOL_ERROR) | Closed);
    let rapid = flood(&rig, 10_000, |n| [open(n), frame(RST_STREAM, 0, n, &cancel)].concat()).await;
    assert!(expected(rapid), "rapid reset: {rapid:?}");
    let made = flood(&rig, 2000, |n| [open(n), frame(WINDOW_UPDATE, 0, n, &[0; 4])].concat()).await;
    assert!(expected(made), "resets that we are made to send: {made:?}");
    let late =
        flood(&rig, 2000, |n| [frame(HEADERS, WHOLE, n, &post()), frame(DATA, 0, n, b"x")].concat()).await;
    assert!(expected(late), "data after the end: {late:?}");
    let continued = flood(&rig, 20_000, |n| match n {
        1 => frame(HEADERS, 0, 1, &get()),
        _ => frame(CONTINUATION, 0, 1, b""),
    })
    .await;
    assert!(expected(continued), "continuations: {continued:?}");
    let empty = flood(&rig, 20_000, |n| if n == 1 { open(1) } else { frame(DATA, 0, 1, b"") }).await;
    assert!(expected(empty), "empty data: {empty:?}");

    // Somebody else is served as before, and nothing is left of it all.
    assert_eq!(rig.get("/v2").await.status, 200);
    let given_back = async {
        while rig.memory.available() < 64 << 20 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), given_back).await.unwrap();
    assert!(rig.seen().is_empty());
}

#[tokio::test]
async fn streams_over_the_limit_are_refused_so_that_they_can_be_tried_again() {
    let rig = Setup::default().start();
    let mut client = Client::connect(&rig).await;
    let bytes: Vec<u8> = (0..257).flat_map(|n| frame(HEADERS, END_HEADERS, 2 * n + 1, &post())).collect();
    client.send(&bytes).await;
    assert_eq!(client.verdict().await, Verdict::Reset(REFUSED_STREAM));
}

/// How long a client with this initial window keeps its connection if it reads nothing but asks on.
async fn kept_with_window(window: u8) -> Duration {
    let rig = Setup::default().start();
    let mut client = Client::connect(&rig).await;
    client.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, window])).await;
    client.send(&frame(HEADERS, WHOLE, 1, &get())).await;
    assert_eq!(client.verdict().await, Verdict::Status(200));
    // The watch looks at the pace of a clock that need not be waited for.
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    let mut left_out = false;
    let ended = async {
        while let Some((kind, _, payload)) = client.read().await {
            left_out |= kind == GOAWAY;
            if kind == PING {
                client.send(&frame(PING, ACK, 0, &payload)).await;
            }
        }
    };
    timeout(Duration::from_secs(60), ended).await.expect("the connection ends");
    assert!(left_out, "a GOAWAY comes first");
    started.elapsed()
}

#[tokio::test]
async fn an_answer_that_is_never_read_does_not_keep_its_connection() {
    for window in [0, 1] {
        let kept = kept_with_window(window).await;
        tokio::time::resume();
        let seconds = Duration::from_secs;
        assert!((seconds(20)..=seconds(40)).contains(&kept), "{window}: {kept:?}");
    }
}
