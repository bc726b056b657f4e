//! Who says what: each arrival is a session of one or more turns, and every turn sends the whole history again.
//!
//! Sessions of a group begin with the same system prompt, and each turn with everything that was said before: what a
//! server's prefix cache can keep. The next turn carries the answer as the server gave it.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use anyhow::ensure;
use http::{HeaderName, HeaderValue};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    length::{Length, Tokens, append_words},
    reply::Delivery,
};
use crate::message::Message;

/// System prompts kept in memory, and the tokens of all together.
const GROUPS_MAX: u32 = 100_000;
const PREFIX_TOKENS_MAX: u64 = 64_000_000;

/// Keeps the random numbers of sessions, system prompts and arrivals of the same seed apart.
const SESSIONS: u64 = 0x9e37_79b9_7f4a_7c15;
const PREFIXES: u64 = 0xd1b5_4a32_d192_ed03;

/// What is asked for in each request of a run besides its messages.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) model: String,
    pub(crate) delivery: Delivery,
    /// The `user` field: whose quota it is.
    pub(crate) tenant: Option<String>,
    /// The `service_tier` field: the priority class.
    pub(crate) tier: Option<String>,
}

/// The shape of the sessions of a run.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Tokens of each message of the user.
    pub(crate) prompt: Length,
    /// Tokens of each answer, asked for as `max_tokens`.
    pub(crate) output: Length,
    /// Tokens of the calls of a trace, in the order of its arrivals.
    pub(crate) traced: Option<Arc<[Tokens]>>,
    pub(crate) turns: u32,
    /// Mean time from an answer to the next turn, evenly spread from half to one and a half times.
    pub(crate) think: Duration,
    /// Tokens of the system prompt; none without.
    pub(crate) shared_prefix: u32,
    /// Different system prompts, given to sessions in turn.
    pub(crate) groups: u32,
    /// A header that holds the session's name.
    pub(crate) session_header: Option<HeaderName>,
    pub(crate) seed: u64,
}

/// Makes the sessions of a run; the same seed makes the same ones on any number of threads.
#[derive(Debug)]
pub(crate) struct Sessions {
    shape: Shape,
    /// What is sent, but for its body.
    template: Message,
    /// The request from after its messages to its end but for the number of tokens.
    tail: String,
    /// The request up to its messages.
    head: String,
    prefixes: Vec<String>,
}

impl Sessions {
    pub(crate) fn new(template: Message, request: &Request, shape: Shape) -> anyhow::Result<Self> {
        let traced = [shape.prompt, shape.output].contains(&Length::Trace);
        ensure!(
            !traced || shape.traced.as_ref().is_some_and(|tokens| !tokens.is_empty()),
            "lengths of a trace need --trace FILE with the columns ContextTokens and GeneratedTokens"
        );
        ensure!(shape.turns > 0, "a session has at least one turn");
        ensure!((1..=GROUPS_MAX).contains(&shape.groups), "from 1 to {GROUPS_MAX} groups share a prefix");
        let prefix_tokens = u64::from(shape.groups) * u64::from(shape.shared_prefix);
        ensure!(
            prefix_tokens <= PREFIX_TOKENS_MAX,
            "more than {PREFIX_TOKENS_MAX} tokens of shared prefixes"
        );
        let (head, tail) = around_messages(request)?;
        let prefixes = (0..shape.groups).map(|group| system_prompt(&shape, group)).collect();
        Ok(Self { shape, template, tail, head, prefixes })
    }

    /// The session of the arrival with this number.
    pub(crate) fn session(&self, number: usize) -> Session<'_> {
        let seed = self.shape.seed.wrapping_add((number as u64 + 1).wrapping_mul(SESSIONS));
        let prefix = self.prefixes.get(number % self.prefixes.len()).map_or("", String::as_str);
        Session {
            sessions: self,
            number,
            rng: StdRng::seed_from_u64(seed),
            messages: prefix.to_owned(),
            turns_left: self.shape.turns,
        }
    }
}

/// A request up to its messages, and from after them to the number of tokens, which ends it.
fn around_messages(request: &Request) -> anyhow::Result<(String, String)> {
    let quoted = |text: &str| serde_json::to_string(text);
    let head = format!("{{\"model\":{},\"messages\":[", quoted(&request.model)?);
    let mut tail = String::from("]");
    if request.delivery == Delivery::Stream {
        tail.push_str(",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    }
    if let Some(tenant) = &request.tenant {
        write!(tail, ",\"user\":{}", quoted(tenant)?)?;
    }
    if let Some(tier) = &request.tier {
        write!(tail, ",\"service_tier\":{}", quoted(tier)?)?;
    }
    tail.push_str(",\"max_tokens\":");
    Ok((head, tail))
}

/// The message that the sessions of a group begin with, as JSON; empty if there is none.
fn system_prompt(shape: &Shape, group: u32) -> String {
    if shape.shared_prefix == 0 {
        return String::new();
    }
    let seed = shape.seed.wrapping_add((u64::from(group) + 1).wrapping_mul(PREFIXES));
    let mut text = String::from(r#"{"role":"system","content":""#);
    append_words(shape.shared_prefix, &mut StdRng::seed_from_u64(seed), &mut text);
    text.push_str(r#""}"#);
    text
}

/// One session under way.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    sessions: &'a Sessions,
    number: usize,
    rng: StdRng,
    /// What was said so far: JSON objects with commas between them.
    messages: String,
    turns_left: u32,
}

impl Session<'_> {
    /// The next turn's request; `None` after the last turn.
    pub(crate) fn next_turn(&mut self) -> Option<Message> {
        self.turns_left = self.turns_left.checked_sub(1)?;
        let shape = &self.sessions.shape;
        let traced = self.traced();
        let prompt = shape.prompt.draw(traced.prompt, &mut self.rng);
        let output = shape.output.draw(traced.output, &mut self.rng);
        self.open_message("user");
        append_words(prompt, &mut self.rng, &mut self.messages);
        self.messages.push_str(r#""}"#);
        let Sessions { head, tail, template, .. } = self.sessions;
        let body = format!("{head}{}{tail}{output}}}", self.messages);
        let mut message = template.with_body(body.into());
        if let Some(name) = &shape.session_header {
            let value = HeaderValue::try_from(format!("session-{}-{}", shape.seed, self.number));
            message.set_header(name.clone(), value.expect("digits, letters and hyphens"));
        }
        Some(message)
    }

    /// The server's answer, which the next turn carries.
    pub(crate) fn answered(&mut self, text: &str) {
        if self.turns_left == 0 {
            return;
        }
        self.open_message("assistant");
        let quoted = serde_json::to_string(text).expect("a string is always JSON");
        // The quotation marks are there already, or follow.
        self.messages.push_str(quoted.get(1..).unwrap_or("\""));
        self.messages.push('}');
    }

    /// How long the user thinks before the next turn.
    pub(crate) fn think(&mut self) -> Duration {
        self.sessions.shape.think.mul_f64(self.rng.random_range(0.5..=1.5))
    }

    fn open_message(&mut self, role: &str) {
        if !self.messages.is_empty() {
            self.messages.push(',');
        }
        self.messages.push_str(r#"{"role":""#);
        self.messages.push_str(role);
        self.messages.push_str(r#"","content":""#);
    }

    /// What the trace says of this session's call; a closed loop may make more calls than it has.
    fn traced(&self) -> Tokens {
        let traced = self.sessions.shape.traced.as_deref().unwrap_or_default();
        let turn = self.number.checked_rem(traced.len()).and_then(|turn| traced.get(turn));
        turn.copied().unwrap_or(Tokens { prompt: 1, output: 1 })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        connection::HttpVersion,
        message::{Call, Protocol},
        target::Target,
    };

    fn shape() -> Shape {
        Shape {
            prompt: Length::Fixed(3),
            output: Length::Fixed(5),
            traced: None,
            turns: 2,
            think: Duration::from_secs(2),
            shared_prefix: 8,
            groups: 2,
            session_header: Some(HeaderName::from_static("x-session-id")),
            seed: 7,
        }
    }

    fn sessions(shape: Shape) -> anyhow::Result<Sessions> {
        let target = Target {
            authority: "h:1".parse().unwrap(),
            address: "127.0.0.1:1".parse().unwrap(),
            path: String::new(),
        };
        let call = Call {
            protocol: Protocol::Chat,
            http: HttpVersion::Http1,
            target: &target,
            model: "m",
            headers: &HeaderMap::new(),
        };
        let request = Request {
            model: "m".into(),
            delivery: Delivery::Stream,
            tenant: Some("ten\"ant".into()),
            tier: Some("flex".into()),
        };
        Sessions::new(Message::chat(&call).unwrap(), &request, shape)
    }

    fn body(message: &Message) -> Value {
        serde_json::from_slice(message.body()).unwrap()
    }

    #[test]
    fn each_turn_carries_all_that_was_said_and_the_last_ends_the_session() {
        let sessions = sessions(shape()).unwrap();
        let mut session = sessions.session(0);
        let first = body(&session.next_turn().unwrap());
        session.answered("a \"quoted\" answer\n");
        let second = body(&session.next_turn().unwrap());
        assert_eq!(session.next_turn().map(|message| body(&message)), None);

        assert_eq!(first["messages"].as_array().unwrap().len(), 2);
        let messages = second["messages"].as_array().unwrap();
        assert_eq!(messages[..2], first["messages"].as_array().unwrap()[..], "the prefix stays as it was");
        assert_eq!(messages[2], json!({"role": "assistant", "content": "a \"quoted\" answer\n"}));
        assert_eq!(messages[3]["role"], "user");
        assert_eq!(messages[3]["content"].as_str().unwrap().split_whitespace().count(), 3);
        for (key, value) in [
            ("model", json!("m")),
            ("max_tokens", json!(5)),
            ("stream", json!(true)),
            ("stream_options", json!({"include_usage": true})),
            ("user", json!("ten\"ant")),
            ("service_tier", json!("flex")),
        ] {
            assert_eq!(second[key], value, "{key}");
        }
    }

    #[test]
    fn sessions_of_a_group_share_their_system_prompt_and_nothing_else() {
        let sessions = sessions(shape()).unwrap();
        let messages = |number| {
            body(&sessions.session(number).next_turn().unwrap())["messages"].as_array().unwrap().clone()
        };
        let (zero, one, two) = (messages(0), messages(1), messages(2));
        assert_eq!(zero[0], two[0]);
        assert_ne!(zero[0], one[0]);
        assert_ne!(zero[1], two[1]);
        assert_eq!(zero, messages(0), "the same number gives the same session");
    }

    #[test]
    fn a_session_is_named_in_its_header() {
        let sessions = sessions(shape()).unwrap();
        let request = sessions.session(3).next_turn().unwrap().request();
        assert_eq!(request.headers()["x-session-id"], "session-7-3");
        assert_eq!(request.uri(), "/v1/chat/completions");
    }

    #[test]
    fn calls_have_the_lengths_of_their_trace() {
        let traced = [(4, 9), (2, 1)].map(|(prompt, output)| Tokens { prompt, output });
        let shape = Shape {
            prompt: Length::Trace,
            output: Length::Trace,
            traced: Some(traced.into()),
            shared_prefix: 0,
            ..shape()
        };
        let sessions = sessions(shape).unwrap();
        let lengths = |number| {
            let body = body(&sessions.session(number).next_turn().unwrap());
            let prompt = body["messages"][0]["content"].as_str().unwrap().split_whitespace().count();
            (prompt, body["max_tokens"].as_u64().unwrap())
        };
        assert_eq!([lengths(0), lengths(1), lengths(2)], [(4, 9), (2, 1), (4, 9)]);
    }

    #[test]
    fn users_think_for_about_the_asked_time() {
        let sessions = sessions(shape()).unwrap();
        let mut session = sessions.session(0);
        let thoughts: Vec<Duration> = (0..100).map(|_| session.think()).collect();
        assert!(thoughts.iter().all(|t| (1.0..=3.0).contains(&t.as_secs_f64())));
        assert!(thoughts.iter().min() != thoughts.iter().max());
    }

    #[test]
    fn a_shape_that_cannot_be_is_refused_in_words() {
        for (shape, part) in [
            (Shape { prompt: Length::Trace, ..shape() }, "--trace"),
            (Shape { turns: 0, ..shape() }, "turn"),
            (Shape { groups: 0, ..shape() }, "groups"),
            (Shape { shared_prefix: 4_000_000, groups: 100, ..shape() }, "shared prefixes"),
        ] {
            let error = sessions(shape).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
