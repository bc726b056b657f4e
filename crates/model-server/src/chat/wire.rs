//! Answers as OpenAI's clients read them, whole or as events: for chat and plain completions as vLLM writes them.

mod responses;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::{Value, json};

use super::answer::{Answer, Finish};
use responses::Events;

/// The last event of a stream.
pub(super) const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");
/// Room for an event around its text.
const EVENT_BYTES: usize = 48;

/// Which of OpenAI's interfaces generates text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surface {
    Chat,
    Completion,
    Responses,
}

/// Tokens as they are billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) prompt: usize,
    pub(super) cached: usize,
    pub(super) completion: usize,
}

/// What is the same in everything sent for one call.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) surface: Surface,
    /// Unique among the calls of this server.
    pub(super) number: u64,
    /// Seconds since the epoch.
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) include_usage: bool,
}

impl Usage {
    /// For chat, completions and embeddings.
    pub(super) fn to_json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.completion,
            "completion_tokens": self.completion,
            "prompt_tokens_details": { "cached_tokens": self.cached },
        })
    }
}

impl Finish {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

impl Call {
    pub(super) fn id(&self) -> String {
        let prefix = match self.surface {
            Surface::Chat => "chatcmpl",
            Surface::Completion => "cmpl",
            Surface::Responses => "resp",
        };
        format!("{prefix}-sim{:016x}", self.number)
    }

    /// The answer in one piece.
    pub(super) fn whole(&self, answer: &Answer, usage: Usage) -> Value {
        let finish = answer.finish().as_str();
        let (object, choice) = match self.surface {
            Surface::Responses => return responses::completed(self, answer, usage),
            Surface::Chat => {
                let message = json!({ "role": "assistant", "content": answer.text() });
                let choice =
                    json!({ "index": 0, "message": message, "logprobs": null, "finish_reason": finish });
                ("chat.completion", choice)
            }
            Surface::Completion => {
                let choice =
                    json!({ "index": 0, "text": answer.text(), "logprobs": null, "finish_reason": finish });
                ("text_completion", choice)
            }
        };
        json!({
            "id": self.id(),
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": [choice],
            "usage": usage.to_json(),
        })
    }
}

/// The events of one stream.
#[derive(Debug)]
pub(super) enum Script {
    Chunks(Chunks),
    Events(Box<Events>),
}

impl Script {
    pub(super) fn new(call: Call) -> Self {
        match call.surface {
            Surface::Chat | Surface::Completion => Self::Chunks(Chunks::new(call)),
            Surface::Responses => Self::Events(Box::new(Events::new(call))),
        }
    }

    /// What is sent before there is a token.
    pub(super) fn early(&mut self) -> Vec<Bytes> {
        match self {
            Self::Chunks(_) => Vec::new(),
            Self::Events(events) => events.early(),
        }
    }

    /// What is sent with the first token, before it.
    pub(super) fn opening(&mut self) -> Vec<Bytes> {
        match self {
            Self::Chunks(chunks) => chunks.opening(),
            Self::Events(events) => events.opening(),
        }
    }

    pub(super) fn token(&mut self, answer: &Answer, token: usize) -> Bytes {
        match self {
            Self::Chunks(chunks) => chunks.token(answer, token),
            Self::Events(events) => events.delta(answer.piece(token)),
        }
    }

    /// What is sent after the last token, but for `[DONE]`.
    pub(super) fn closing(&mut self, answer: &Answer, usage: Usage) -> Vec<Bytes> {
        match self {
            Self::Chunks(chunks) => chunks.closing(answer, usage),
            Self::Events(events) => events.closing(answer, usage),
        }
    }

    /// Whether `[DONE]` ends the stream.
    pub(super) fn has_done(&self) -> bool {
        matches!(self, Self::Chunks(_))
    }
}

/// Chunks of chat and plain completions: the same bytes but for the text.
#[derive(Debug)]
pub(super) struct Chunks {
    call: Call,
    /// From `data:` to the choices.
    head: String,
    /// From there to the text.
    before: &'static str,
}

impl Chunks {
    fn new(call: Call) -> Self {
        let (object, before) = match call.surface {
            Surface::Completion => ("text_completion", r#"[{"index":0,"text":"#),
            _ => ("chat.completion.chunk", r#"[{"index":0,"delta":{"content":"#),
        };
        let model = Value::from(call.model.as_str());
        let head = format!(
            r#"data: {{"id":"{}","object":"{object}","created":{},"model":{model},"choices":"#,
            call.id(),
            call.created
        );
        Self { call, head, before }
    }

    fn is_chat(&self) -> bool {
        self.call.surface == Surface::Chat
    }

    fn opening(&self) -> Vec<Bytes> {
        if !self.is_chat() {
            return Vec::new();
        }
        let delta =
            r#"[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]"#;
        vec![format!("{}{delta}}}\n\n", self.head).into()]
    }

    fn token(&self, answer: &Answer, token: usize) -> Bytes {
        let last = token + 1 == answer.tokens() && answer.finish() == Finish::Length;
        self.chunk(answer.piece(token), last.then_some(Finish::Length))
    }

    fn chunk(&self, text: &str, finish: Option<Finish>) -> Bytes {
        let room = self.head.len() + self.before.len() + text.len() + EVENT_BYTES * 2;
        let mut event = BytesMut::with_capacity(room);
        event.put_slice(self.head.as_bytes());
        event.put_slice(self.before.as_bytes());
        event.put_slice(quoted(text).as_bytes());
        event.put_slice(if self.is_chat() { b"}" } else { b"" });
        event.put_slice(match finish {
            None => br#","logprobs":null,"finish_reason":null}]}"#,
            Some(Finish::Stop) => br#","logprobs":null,"finish_reason":"stop","stop_reason":null}]}"#,
            Some(Finish::Length) => br#","logprobs":null,"finish_reason":"length","stop_reason":null}]}"#,
        });
        event.put_slice(b"\n\n");
        event.freeze()
    }

    /// An answer cut by its limit says so with its last token; one that ends by itself does so without text.
    fn closing(&self, answer: &Answer, usage: Usage) -> Vec<Bytes> {
        let mut events = Vec::new();
        if answer.finish() == Finish::Stop {
            events.push(self.chunk("", Some(Finish::Stop)));
        }
        if self.call.include_usage {
            events.push(format!("{}[],\"usage\":{}}}\n\n", self.head, usage.to_json()).into());
        }
        events
    }
}

/// `text` as a JSON string.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) { format!("\"{text}\"") } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests;
