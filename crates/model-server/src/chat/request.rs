//! Bodies of requests, and the work they ask for.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    answer::{Answer, Finish},
    error::Error,
    options::Options,
    prompt::Prompt,
    wire::Surface,
};
use crate::error::Quoted;

/// Stop strings, as many as OpenAI takes.
const STOPS_MAX: usize = 4;

/// An answer to generate and how to send it.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) surface: Surface,
    pub(super) prompt: Prompt,
    pub(super) answer: Answer,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
}

#[derive(Deserialize)]
struct Chat {
    model: String,
    messages: Vec<Message>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    logprobs: Option<bool>,
    #[serde(flatten)]
    common: Common,
}

#[derive(Deserialize)]
struct Completion {
    model: String,
    prompt: Text,
    max_tokens: Option<usize>,
    logprobs: Option<u32>,
    echo: Option<bool>,
    best_of: Option<usize>,
    #[serde(flatten)]
    common: Common,
}

#[derive(Deserialize)]
struct Responses {
    model: String,
    input: Input,
    instructions: Option<String>,
    max_output_tokens: Option<usize>,
    stream: Option<bool>,
}

/// What chat and plain completions share.
#[derive(Deserialize)]
struct Common {
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    stop: Option<Stop>,
    n: Option<usize>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Message {
    role: Option<String>,
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part without text, such as an image, counts by its JSON.
#[derive(Deserialize)]
struct Part {
    text: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Messages(Vec<Message>),
}

/// Text or token ids, one or several of them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Text {
    One(String),
    Many(Vec<String>),
    Ids(Vec<u32>),
    ManyIds(Vec<Vec<u32>>),
}

impl Text {
    /// Each text or list of ids, and what it says.
    pub(super) fn prompts(&self) -> Vec<(Prompt, &str)> {
        match self {
            Self::One(text) => vec![(Prompt::of_text(text), text)],
            Self::Many(texts) => texts.iter().map(|text| (Prompt::of_text(text), text.as_str())).collect(),
            Self::Ids(ids) => vec![(Prompt::of_ids(ids), "")],
            Self::ManyIds(lists) => lists.iter().map(|ids| (Prompt::of_ids(ids), "")).collect(),
        }
    }
}

pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(Error::Body)
}

pub(super) fn check_model(model: &str, options: &Options) -> Result<(), Error> {
    if model == options.model { Ok(()) } else { Err(Error::Model(Quoted::new(model))) }
}

fn refuse(asked: bool, parameter: &'static str, problem: &'static str) -> Result<(), Error> {
    if asked { Err(Error::Parameter { parameter, problem }) } else { Ok(()) }
}

impl Generation {
    /// What `body` asks of `surface`.
    ///
    /// # Errors
    /// It is no such request, of another model, or needs what is not simulated.
    pub(super) fn parse(surface: Surface, body: &[u8], options: &Options) -> Result<Self, Error> {
        match surface {
            Surface::Chat => parse::<Chat>(body)?.generation(options),
            Surface::Completion => parse::<Completion>(body)?.generation(options),
            Surface::Responses => parse::<Responses>(body)?.generation(options),
        }
    }
}

impl Chat {
    fn generation(self, options: &Options) -> Result<Generation, Error> {
        check_model(&self.model, options)?;
        refuse(self.messages.is_empty(), "messages", "there is none")?;
        refuse(self.logprobs == Some(true), "logprobs", "not simulated")?;
        let asked = self.max_completion_tokens.or(self.max_tokens);
        let limit = Limit { parameter: "max_tokens", asked };
        let (prompt, last) = render(None, &self.messages);
        self.common.generation(Surface::Chat, (prompt, &last), limit, options)
    }
}

impl Completion {
    fn generation(self, options: &Options) -> Result<Generation, Error> {
        check_model(&self.model, options)?;
        refuse(self.logprobs.is_some(), "logprobs", "not simulated")?;
        refuse(self.echo == Some(true), "echo", "not simulated")?;
        refuse(self.best_of.is_some_and(|best| best != 1), "best_of", "must be 1")?;
        let mut prompts = self.prompt.prompts();
        let (Some(prompt), true) = (prompts.pop(), prompts.is_empty()) else {
            return Err(Error::Parameter { parameter: "prompt", problem: "must be exactly one" });
        };
        let limit = Limit { parameter: "max_tokens", asked: self.max_tokens };
        self.common.generation(Surface::Completion, prompt, limit, options)
    }
}

impl Responses {
    fn generation(self, options: &Options) -> Result<Generation, Error> {
        check_model(&self.model, options)?;
        let messages = match self.input {
            Input::Text(text) => vec![Message { role: None, content: Some(Content::Text(text)) }],
            Input::Messages(messages) => messages,
        };
        refuse(messages.is_empty(), "input", "there is none")?;
        let (prompt, last) = render(self.instructions.as_deref(), &messages);
        let common = Common { stream: self.stream, stream_options: None, stop: None, n: None };
        let limit = Limit { parameter: "max_output_tokens", asked: self.max_output_tokens };
        common.generation(Surface::Responses, (prompt, &last), limit, options)
    }
}

/// How many tokens a client allows, under the name it has for that.
#[derive(Clone, Copy)]
struct Limit {
    parameter: &'static str,
    asked: Option<usize>,
}

impl Common {
    fn generation(
        self,
        surface: Surface,
        (prompt, last): (Prompt, &str),
        limit: Limit,
        options: &Options,
    ) -> Result<Generation, Error> {
        refuse(self.n.is_some_and(|n| n != 1), "n", "must be 1")?;
        refuse(limit.asked == Some(0), limit.parameter, "must be at least 1")?;
        let stops = match self.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop],
            Some(Stop::Many(stops)) => stops,
        };
        refuse(stops.len() > STOPS_MAX, "stop", "takes 4 strings at most")?;
        refuse(stops.iter().any(String::is_empty), "stop", "must not be empty")?;
        let tokens = room(&prompt, limit, options)?;
        let finish = if Some(tokens) == limit.asked { Finish::Length } else { Finish::Stop };
        Ok(Generation {
            surface,
            answer: Answer::new(last, tokens, finish, &stops),
            prompt,
            stream: self.stream.unwrap_or(false),
            include_usage: self.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
        })
    }
}

/// The tokens of the answer. A length nobody asked for is cut to what the context leaves.
fn room(prompt: &Prompt, limit: Limit, options: &Options) -> Result<usize, Error> {
    let tokens = options.output_tokens.of(prompt.digest(), limit.asked);
    let needed = prompt.tokens().saturating_add(limit.asked.unwrap_or(1));
    if needed > options.context {
        return Err(Error::Context { tokens: needed, context: options.context });
    }
    Ok(tokens.min(options.context - prompt.tokens()))
}

/// The prompt a chat template would make, and the last message's text.
fn render(instructions: Option<&str>, messages: &[Message]) -> (Prompt, String) {
    let mut prompt = Prompt::default();
    if let Some(instructions) = instructions {
        push_message(&mut prompt, "system", instructions);
    }
    let mut last = String::new();
    for message in messages {
        last = message.text();
        push_message(&mut prompt, message.role.as_deref().unwrap_or("user"), &last);
    }
    prompt.push(b"<|assistant|>\n");
    (prompt, last)
}

fn push_message(prompt: &mut Prompt, role: &str, text: &str) {
    for part in ["<|", role, "|>\n", text, "\n"] {
        prompt.push(part.as_bytes());
    }
}

impl Message {
    fn text(&self) -> String {
        match &self.content {
            None => String::new(),
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => parts.iter().map(Part::shown).collect::<Vec<_>>().join(" "),
        }
    }
}

impl Part {
    fn shown(&self) -> String {
        self.text.clone().unwrap_or_else(|| Value::Object(self.rest.clone()).to_string())
    }
}

#[cfg(test)]
mod tests;
