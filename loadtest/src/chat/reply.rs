//! The answer to a chat completion as it comes: whole, or in frames with the times at which they came.

use std::time::Duration;

use http::{HeaderMap, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    outcome::Outcome,
    sse::{DONE, Event, SseError, SseReader},
};

/// Bytes of one answer that are read.
const REPLY_MAX: usize = 64 << 20;

/// Whether answers are asked for as a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Whole,
    Stream,
}

/// An answer that is complete.
#[derive(Debug, PartialEq)]
pub(crate) struct Reply {
    /// When the first text came.
    pub(crate) first: Instant,
    /// When the last text came.
    pub(crate) last: Instant,
    /// The longest time between two frames with text.
    pub(crate) gap_max: Duration,
    /// Frames with text; one for an answer that came whole.
    pub(crate) frames: u64,
    pub(crate) usage: Option<Usage>,
    pub(crate) text: String,
}

/// What the server says that the call took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    #[serde(default)]
    pub(crate) prompt_tokens: u64,
    #[serde(default)]
    pub(crate) completion_tokens: u64,
    #[serde(default)]
    pub(crate) prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct PromptDetails {
    #[serde(default)]
    pub(crate) cached_tokens: Option<u64>,
}

impl Usage {
    /// Tokens of the prompt that the server had in its prefix cache.
    pub(crate) fn cached_tokens(&self) -> u64 {
        self.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0)
    }
}

impl Reply {
    fn starting(now: Instant) -> Self {
        Self { first: now, last: now, gap_max: Duration::ZERO, frames: 0, usage: None, text: String::new() }
    }

    fn push(&mut self, text: &str, now: Instant) {
        if self.frames > 0 {
            self.gap_max = self.gap_max.max(now - self.last);
        }
        self.frames += 1;
        self.last = now;
        self.text.push_str(text);
    }

    /// Tokens of the answer: what the server counted, or its frames where it does not say.
    pub(crate) fn tokens(&self) -> u64 {
        self.usage.map_or(self.frames, |usage| usage.completion_tokens)
    }

    /// Time per token after the first; `None` where there is no second one or all came at once.
    pub(crate) fn time_per_token(&self) -> Option<Duration> {
        let after_first = u32::try_from(self.tokens().checked_sub(1)?).ok()?;
        if self.frames < 2 {
            return None;
        }
        (self.last - self.first).checked_div(after_first)
    }
}

/// An answer and whether its connection may be used again.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) reply: Reply,
    pub(crate) bytes: u64,
    pub(crate) connection: Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    Reusable,
    Lost,
}

/// Reads an answer with a good status to its end.
pub(crate) async fn read(response: Response<Incoming>, delivery: Delivery) -> Result<Received, Outcome> {
    let (head, mut body) = response.into_parts();
    let streamed = is_event_stream(&head.headers);
    match delivery {
        Delivery::Stream if streamed => read_stream(&mut body).await,
        Delivery::Whole if !streamed => read_whole(&mut body).await,
        Delivery::Stream | Delivery::Whole => Err(Outcome::BadResponse),
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| value.trim_start().starts_with("text/event-stream"))
}

async fn read_stream(body: &mut Incoming) -> Result<Received, Outcome> {
    let (mut stream, mut bytes, mut connection) = (StreamReader::default(), 0, Connection::Reusable);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            connection = Connection::Lost;
            break;
        };
        if let Ok(data) = frame.into_data() {
            bytes += data.len();
            if bytes > REPLY_MAX {
                return Err(Outcome::BadResponse);
            }
            stream.feed(&data, Instant::now())?;
        }
    }
    let reply = stream.end(connection)?;
    Ok(Received { reply, bytes: bytes as u64, connection })
}

async fn read_whole(body: &mut Incoming) -> Result<Received, Outcome> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| Outcome::BrokenOff)?.into_data() {
            if whole.len() + data.len() > REPLY_MAX {
                return Err(Outcome::BadResponse);
            }
            whole.extend_from_slice(&data);
        }
    }
    let reply = whole_reply(&whole, Instant::now())?;
    Ok(Received { reply, bytes: whole.len() as u64, connection: Connection::Reusable })
}

fn whole_reply(body: &[u8], now: Instant) -> Result<Reply, Outcome> {
    let mut chunk = Chunk::parse(body)?;
    let mut reply = Reply::starting(now);
    reply.usage = chunk.usage;
    let text = chunk.text().ok_or(Outcome::BadResponse)?;
    reply.push(&text, now);
    Ok(reply)
}

/// Follows one stream.
#[derive(Debug, Default)]
pub(crate) struct StreamReader {
    events: SseReader,
    progress: Progress,
}

/// What has been read of a stream.
#[derive(Debug, Default)]
struct Progress {
    reply: Option<Reply>,
    usage: Option<Usage>,
    /// Whether the server said that the answer is complete.
    done: bool,
}

impl From<SseError> for Outcome {
    fn from(_: SseError) -> Self {
        Self::BadResponse
    }
}

impl StreamReader {
    /// Takes what came at `now`; fails at an error event and at what is no chat completion.
    pub(crate) fn feed(&mut self, piece: &[u8], now: Instant) -> Result<(), Outcome> {
        let Self { events, progress } = self;
        events.feed(piece, |event| progress.event(&event, now))
    }

    /// Whether any text has come.
    pub(crate) fn has_started(&self) -> bool {
        self.progress.reply.is_some()
    }

    /// The answer, if the stream was complete. An answer without any text is none.
    pub(crate) fn end(self, connection: Connection) -> Result<Reply, Outcome> {
        let Progress { reply, usage, done } = self.progress;
        match (done, connection, reply) {
            (true, _, Some(reply)) => Ok(Reply { usage, ..reply }),
            (true, _, None) => Err(Outcome::BadResponse),
            (false, Connection::Reusable, _) => Err(Outcome::StreamUnfinished),
            (false, Connection::Lost, _) => Err(Outcome::StreamBrokenOff),
        }
    }
}

impl Progress {
    fn event(&mut self, event: &Event, now: Instant) -> Result<(), Outcome> {
        if self.done {
            return Ok(());
        }
        if event.data == DONE {
            self.done = true;
            return Ok(());
        }
        let parsed = Chunk::parse(event.data.as_bytes());
        if event.name == "error" && !matches!(parsed, Err(Outcome::StreamError { .. })) {
            return Err(Outcome::StreamError { code: None });
        }
        let mut chunk = parsed?;
        self.usage = chunk.usage.or(self.usage);
        if let Some(text) = chunk.text().filter(|text| !text.is_empty()) {
            self.reply.get_or_insert_with(|| Reply::starting(now)).push(&text, now);
        }
        Ok(())
    }
}

/// A chat completion, or a chunk of one, as far as it is looked at.
#[derive(Debug, Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    #[serde(alias = "message", default)]
    delta: Option<Delta>,
}

#[derive(Debug, Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
}

impl Chunk {
    /// Fails with the error that it holds instead of an answer.
    fn parse(json: &[u8]) -> Result<Self, Outcome> {
        let chunk: Self = serde_json::from_slice(json).map_err(|_| Outcome::BadResponse)?;
        match &chunk.error {
            Some(error) => Err(Outcome::stream_error(error)),
            None => Ok(chunk),
        }
    }

    /// The text of the first choice.
    fn text(&mut self) -> Option<String> {
        self.choices.first_mut()?.delta.as_mut()?.content.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
    const WORD: &str = r#"data: {"choices":[{"index":0,"delta":{"content":"word "}}],"usage":null}"#;
    const STOP: &str = r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    const USAGE: &str = r#"data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4}}}"#;

    /// Reads frames that come at these milliseconds.
    fn stream(frames: &[(u64, &str)], connection: Connection) -> (Instant, Result<Reply, Outcome>) {
        let start = Instant::now();
        let mut reader = StreamReader::default();
        for (millis, frame) in frames {
            let piece = format!("{frame}\n\n");
            if let Err(outcome) = reader.feed(piece.as_bytes(), start + Duration::from_millis(*millis)) {
                return (start, Err(outcome));
            }
        }
        (start, reader.end(connection))
    }

    #[test]
    fn times_are_those_of_frames_with_text_and_tokens_are_what_the_server_counted() {
        let frames = [
            (5, ROLE),
            (10, WORD),
            (20, WORD),
            (50, WORD),
            (60, STOP),
            (61, USAGE),
            (70, "data: [DONE]"),
            (80, WORD),
        ];
        let (start, reply) = stream(&frames, Connection::Reusable);
        let reply = reply.unwrap();
        assert_eq!((reply.first - start).as_millis(), 10);
        assert_eq!((reply.last - start).as_millis(), 50);
        assert_eq!(reply.gap_max.as_millis(), 30);
        assert_eq!((reply.frames, reply.tokens(), reply.text.as_str()), (3, 5, "word word word "));
        assert_eq!(
            reply.time_per_token(),
            Some(Duration::from_millis(10)),
            "40 ms for the four after the first"
        );
        assert_eq!(reply.usage.unwrap().cached_tokens(), 4);
    }

    #[test]
    fn one_frame_has_no_time_per_token_and_frames_stand_for_tokens_without_usage() {
        let (_, reply) = stream(&[(1, WORD), (2, "data: [DONE]")], Connection::Reusable);
        let reply = reply.unwrap();
        assert_eq!((reply.tokens(), reply.time_per_token()), (1, None));
        let (_, reply) = stream(&[(0, WORD), (6, WORD), (8, WORD), (9, "data: [DONE]")], Connection::Lost);
        assert_eq!(
            reply.unwrap().time_per_token(),
            Some(Duration::from_millis(4)),
            "complete, however it was closed"
        );
    }

    #[test]
    fn streams_that_break_are_told_apart() {
        let error =
            r#"data: {"error":{"message":"it went away","type":"server_error","code":"upstream_reset"}}"#;
        let numbered = r#"data: {"error":{"message":"no","code":500}}"#;
        let named = "event: error\ndata: {\"detail\":\"oops\"}";
        let code = |code: &str| Outcome::StreamError { code: Some(code.into()) };
        for (frames, connection, outcome) in [
            (vec![WORD], Connection::Reusable, Outcome::StreamUnfinished),
            (vec![WORD], Connection::Lost, Outcome::StreamBrokenOff),
            (vec![WORD, error, "data: [DONE]"], Connection::Reusable, code("upstream_reset")),
            (vec![numbered], Connection::Reusable, code("500")),
            (vec![WORD, named], Connection::Reusable, Outcome::StreamError { code: None }),
            (vec![WORD, "data: nonsense"], Connection::Reusable, Outcome::BadResponse),
            (vec![ROLE, "data: [DONE]"], Connection::Reusable, Outcome::BadResponse),
        ] {
            let frames: Vec<_> = frames.into_iter().map(|frame| (1, frame)).collect();
            assert_eq!(stream(&frames, connection).1.unwrap_err(), outcome, "{frames:?}");
        }
    }

    #[test]
    fn a_whole_answer_is_one_frame_and_an_error_in_it_is_none() {
        let now = Instant::now();
        let body = br#"{"choices":[{"message":{"role":"assistant","content":"abc abc "}}],"usage":{"completion_tokens":2}}"#;
        let reply = whole_reply(body, now).unwrap();
        assert_eq!((reply.frames, reply.tokens(), reply.time_per_token()), (1, 2, None));
        assert_eq!(whole_reply(br#"{"object":"list"}"#, now), Err(Outcome::BadResponse));
        assert!(matches!(whole_reply(br#"{"error":{"code":"x"}}"#, now), Err(Outcome::StreamError { .. })));
    }
}
