//! What the gateway must know of a request that it hands on as it came.

use pipeline::request::Class;

use super::{
    Endpoint, IncludeUsage, Prefix,
    include_usage::{self, Splice},
    prompt::Prompt,
};
use crate::{
    error::Error,
    json::{Dialect, Kind, Reader, once},
};

/// Bytes kept of a name that a client gives its user or session.
const NAME_BYTES_MAX: usize = 256;

/// The parts of a request that concern the gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Peek {
    pub model: String,
    /// Whether the answer is wanted in frames.
    pub stream: bool,
    pub usage: IncludeUsage,
    /// `max_completion_tokens`, `max_tokens` or `max_output_tokens`; `None` also for a negative number, which
    /// some engines take for no limit.
    pub output_tokens_max: Option<u32>,
    /// `n`: answers to the one prompt.
    pub choices: u32,
    /// `user` or `safety_identifier`, its first 256 bytes.
    pub user: Option<String>,
    /// `prompt_cache_key`, its first 256 bytes.
    pub session: Option<String>,
    /// From `priority`, where a lower number comes first, else from `service_tier`.
    pub class: Option<Class>,
    /// Bytes of the raw prompt: the value of `messages`, `prompt`, `input` or `documents`.
    pub prompt_bytes: usize,
    /// A quarter of the prompt's bytes, in which an attached file counts as 4 KiB.
    pub prompt_tokens_estimate: u32,
    pub prefix: Prefix,
}

/// Reads a request. Members that concern only the engine are left for it to judge.
///
/// # Errors
/// If the body is not one whole JSON object, or a member that is read here is of the wrong type, given twice,
/// or, like `model`, missing.
pub fn peek(body: &[u8], endpoint: Endpoint) -> Result<Peek, Error> {
    let mut reader = Reader::new(body, Dialect::Strict)?;
    if reader.kind()? != Kind::Object {
        return Err(Error::NotAnObject);
    }
    let inside = reader.start() + 1;
    let mut fields = Fields::default();
    reader.object(|reader, key| fields.read(reader, &key, endpoint))?;
    reader.end()?;
    fields.peek(body, endpoint, inside)
}

/// The members as they are met. Of those that may be `null`, the inner option says whether they are.
#[derive(Default)]
struct Fields {
    model: Option<String>,
    stream: Option<Option<bool>>,
    stream_options: Option<Option<Splice>>,
    prompt: Option<Prompt>,
    limits: TokenLimits,
    choices: Option<Option<i64>>,
    names: Names,
    service_tier: Option<Option<Class>>,
    priority: Option<Option<i64>>,
}

#[derive(Default)]
struct TokenLimits {
    plain: Option<Option<i64>>,
    completion: Option<Option<i64>>,
    output: Option<Option<i64>>,
}

#[derive(Default)]
struct Names {
    user: Option<Option<String>>,
    safety_identifier: Option<Option<String>>,
    prompt_cache_key: Option<Option<String>>,
}

impl Fields {
    fn read(&mut self, reader: &mut Reader<'_>, key: &str, endpoint: Endpoint) -> Result<(), Error> {
        match key {
            "model" => once(&mut self.model, key, read_model(reader)?),
            "stream" => once(&mut self.stream, key, read_stream(reader)?),
            "stream_options" if endpoint.asks_for_usage() => {
                once(&mut self.stream_options, key, include_usage::read_options(reader)?)
            }
            "n" => once(&mut self.choices, key, read_whole(reader, "n")?),
            "max_tokens" => once(&mut self.limits.plain, key, read_whole(reader, "max_tokens")?),
            "max_completion_tokens" => {
                once(&mut self.limits.completion, key, read_whole(reader, "max_completion_tokens")?)
            }
            "max_output_tokens" => {
                once(&mut self.limits.output, key, read_whole(reader, "max_output_tokens")?)
            }
            "user" => once(&mut self.names.user, key, read_name(reader, "user")?),
            "safety_identifier" => {
                once(&mut self.names.safety_identifier, key, read_name(reader, "safety_identifier")?)
            }
            "prompt_cache_key" => {
                once(&mut self.names.prompt_cache_key, key, read_name(reader, "prompt_cache_key")?)
            }
            "service_tier" => once(&mut self.service_tier, key, read_tier(reader)?),
            "priority" => once(&mut self.priority, key, read_whole(reader, "priority")?),
            _ if key == endpoint.prompt() => once(&mut self.prompt, key, Prompt::read(reader)?),
            _ => reader.skip(),
        }
    }

    fn peek(self, body: &[u8], endpoint: Endpoint, inside: usize) -> Result<Peek, Error> {
        let model = self.model.ok_or(Error::MissingField("model"))?;
        let stream = self.stream.flatten().unwrap_or_default();
        let usage = match self.stream_options {
            _ if !stream || !endpoint.asks_for_usage() => IncludeUsage::Always,
            Some(None) => IncludeUsage::Asked,
            Some(Some(splice)) => IncludeUsage::Missing(splice),
            None => IncludeUsage::Missing(Splice::first_member(inside)),
        };
        let prompt = self.prompt.unwrap_or_default();
        let choices = self.choices.flatten().unwrap_or(1);
        Ok(Peek {
            model,
            stream,
            usage,
            output_tokens_max: self.limits.output_tokens_max(),
            choices: u32::try_from(choices.max(1)).unwrap_or(u32::MAX),
            user: self.names.user.flatten().or(self.names.safety_identifier.flatten()),
            session: self.names.prompt_cache_key.flatten(),
            class: self.priority.flatten().and_then(class_of).or(self.service_tier.flatten()),
            prompt_bytes: prompt.at.len(),
            prompt_tokens_estimate: prompt.tokens(),
            prefix: Prefix::new(endpoint, body.get(prompt.at).unwrap_or_default()),
        })
    }
}

impl TokenLimits {
    fn output_tokens_max(self) -> Option<u32> {
        let limit = self.completion.flatten().or(self.plain.flatten()).or(self.output.flatten())?;
        (limit >= 0).then(|| u32::try_from(limit).unwrap_or(u32::MAX))
    }
}

fn class_of(priority: i64) -> Option<Class> {
    match priority {
        ..0 => Some(Class::High),
        0 => None,
        1.. => Some(Class::Low),
    }
}

fn read_model(reader: &mut Reader<'_>) -> Result<String, Error> {
    if reader.kind()? != Kind::String {
        return Err(Error::FieldType { field: "model", expected: "a string" });
    }
    match reader.string()? {
        model if model.is_empty() => Err(Error::Empty("model")),
        model => Ok(model.into_owned()),
    }
}

fn read_stream(reader: &mut Reader<'_>) -> Result<Option<bool>, Error> {
    let stream = match reader.kind()? {
        Kind::True => Some(true),
        Kind::False => Some(false),
        Kind::Null => None,
        _ => return Err(Error::FieldType { field: "stream", expected: "true or false" }),
    };
    reader.skip()?;
    Ok(stream)
}

fn read_whole(reader: &mut Reader<'_>, field: &'static str) -> Result<Option<i64>, Error> {
    let wrong = Error::FieldType { field, expected: "a whole number" };
    match reader.kind()? {
        Kind::Null => reader.skip().map(|()| None),
        Kind::Number => reader.number()?.whole().map(Some).ok_or(wrong),
        _ => Err(wrong),
    }
}

/// Reads a name, of which an empty one is none.
fn read_name(reader: &mut Reader<'_>, field: &'static str) -> Result<Option<String>, Error> {
    match reader.kind()? {
        Kind::Null => reader.skip().map(|()| None),
        Kind::String => {
            let name = reader.string()?;
            let kept = name.get(..name.floor_char_boundary(NAME_BYTES_MAX)).unwrap_or_default();
            Ok((!kept.is_empty()).then(|| kept.to_owned()))
        }
        _ => Err(Error::FieldType { field, expected: "a string" }),
    }
}

fn read_tier(reader: &mut Reader<'_>) -> Result<Option<Class>, Error> {
    match reader.kind()? {
        Kind::Null => reader.skip().map(|()| None),
        Kind::String => Ok(match &*reader.string()? {
            "flex" => Some(Class::Low),
            "priority" => Some(Class::High),
            _ => None,
        }),
        _ => Err(Error::FieldType { field: "service_tier", expected: "a string" }),
    }
}
