//! Chat completions of the fixed server: `max_tokens` words, whole or as a stream, all at once.

use std::fmt::Write as _;

use bytes::Bytes;
use serde::Deserialize;

/// Where chat completions are asked for.
pub(super) const PATH: &str = "/v1/chat/completions";

/// Tokens of an answer; a request for more gets these.
const TOKENS_MAX: u32 = 100_000;

/// What is looked at of a request.
#[derive(Debug, Deserialize)]
struct Asked {
    #[serde(default)]
    stream: bool,
    max_tokens: Option<u32>,
    /// The newer name, to which some routers change the older one.
    max_completion_tokens: Option<u32>,
}

/// The answer and its content type; `None` if that was no request.
pub(super) fn answer(body: &[u8]) -> Option<(&'static str, Bytes)> {
    let Asked { stream, max_tokens, max_completion_tokens } = serde_json::from_slice(body).ok()?;
    let tokens = max_completion_tokens.or(max_tokens).unwrap_or(1).min(TOKENS_MAX);
    Some(if stream { ("text/event-stream", frames(tokens)) } else { ("application/json", whole(tokens)) })
}

fn whole(tokens: u32) -> Bytes {
    let text = "word ".repeat(usize::try_from(tokens).unwrap_or_default());
    let choice = format!(
        r#"{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"length"}}"#
    );
    chunk("chat.completion", &choice, &usage(tokens)).into()
}

fn frames(tokens: u32) -> Bytes {
    let word = chunk("chat.completion.chunk", r#"{"index":0,"delta":{"content":"word "}}"#, "null");
    let mut stream = format!("data: {word}\n\n").repeat(usize::try_from(tokens).unwrap_or_default());
    let end = chunk("chat.completion.chunk", "", &usage(tokens));
    // Writing to a string cannot fail.
    _ = write!(stream, "data: {end}\n\ndata: [DONE]\n\n");
    stream.into()
}

fn chunk(object: &str, choice: &str, usage: &str) -> String {
    format!(
        r#"{{"id":"fixed","object":"{object}","created":0,"model":"model","choices":[{choice}],"usage":{usage}}}"#
    )
}

fn usage(tokens: u32) -> String {
    format!(r#"{{"prompt_tokens":1,"completion_tokens":{tokens},"total_tokens":{}}}"#, tokens + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_the_tokens_that_were_asked_for() {
        let (kind, body) = answer(br#"{"max_tokens":3}"#).unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (kind, &body["choices"][0]["message"]["content"]),
            ("application/json", &"word word word ".into())
        );
        let (kind, body) = answer(br#"{"max_completion_tokens":3,"stream":true}"#).unwrap();
        let text = std::str::from_utf8(&body).unwrap();
        assert_eq!((kind, text.matches("word ").count()), ("text/event-stream", 3));
        assert!(text.ends_with("\"total_tokens\":4}}\n\ndata: [DONE]\n\n"), "{text}");
        assert_eq!(answer(b"no request"), None);
    }
}
