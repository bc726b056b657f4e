//! Errors as engines word them, and as the gateway words its own in the midst of a stream.

use std::borrow::Cow;

use bytes::Bytes;

use super::sse::Dialect;
use crate::{
    error::Error,
    json::{self, Kind, Object, Reader, value},
};

/// What ends a stream of chat or text completions.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// Characters kept of an engine's message.
const MESSAGE_MAX: usize = 300;
/// Complaints shown of a list of them.
const DETAILS_MAX: usize = 3;

/// What an engine says is wrong, each part cut at 300 characters and in one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorText {
    pub message: String,
    /// `type`, e.g. `BadRequestError`.
    pub kind: Option<String>,
    /// The member of the request it is about.
    pub param: Option<String>,
    /// `code`, a word or a status.
    pub code: Option<String>,
}

impl ErrorText {
    /// Reads the error out of a JSON text: an object with an `error` in it, with a `detail`, or with `message`
    /// and its like themselves. `None` if it has none of these.
    pub(super) fn of(text: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(text, json::Dialect::Lenient).ok()?;
        let envelope = Envelope::read(&mut reader).ok()?;
        reader.end().ok()?;
        let Envelope { error, detail, message, kind, param, code } = envelope;
        let plain = message.map(|message| Self { message, kind, param, code });
        error.or(plain).or(detail.map(|message| Self { message, ..Self::default() }))
    }
}

/// What a server says is wrong, in the body of its answer: an engine, or any other that answers in JSON. `None` if
/// the body is no JSON, or says nothing. Whether it is for the client is for the caller to judge: what a server says
/// of its own failures is not.
#[must_use]
pub fn error_of(body: &[u8]) -> Option<ErrorText> {
    ErrorText::of(body).filter(|error| *error != ErrorText::default())
}

#[derive(Default)]
struct Envelope {
    error: Option<ErrorText>,
    detail: Option<String>,
    message: Option<String>,
    kind: Option<String>,
    param: Option<String>,
    code: Option<String>,
}

impl Envelope {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut envelope = Self::default();
        reader.object(|reader, key| {
            match &*key {
                "error" => envelope.error = read_error(reader)?,
                "detail" => envelope.detail = read_detail(reader)?,
                "message" => envelope.message = read_text(reader)?,
                "type" => envelope.kind = read_text(reader)?,
                "param" => envelope.param = read_text(reader)?,
                "code" => envelope.code = read_word(reader)?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        Ok(envelope)
    }
}

/// Reads the value of `error`: a message, an object with one, or a list of which the first counts.
fn read_error(reader: &mut Reader<'_>) -> Result<Option<ErrorText>, Error> {
    match reader.kind()? {
        Kind::Object => read_members(reader).map(Some),
        Kind::Array => {
            let mut first = None;
            reader.array(|reader, index| {
                if index > 0 {
                    return reader.skip();
                }
                first = read_error(reader)?;
                Ok(())
            })?;
            Ok(first)
        }
        _ => Ok(read_text(reader)?.map(|message| ErrorText { message, ..ErrorText::default() })),
    }
}

fn read_members(reader: &mut Reader<'_>) -> Result<ErrorText, Error> {
    let mut error = ErrorText::default();
    reader.object(|reader, key| {
        match &*key {
            "message" | "msg" => error.message = read_text(reader)?.unwrap_or_default(),
            "type" => error.kind = read_text(reader)?,
            "param" => error.param = read_text(reader)?,
            "code" => error.code = read_word(reader)?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(error)
}

/// Reads FastAPI's `detail`: a message, an object with one, or a list of complaints each with its `loc` and `msg`.
fn read_detail(reader: &mut Reader<'_>) -> Result<Option<String>, Error> {
    if reader.kind()? != Kind::Array {
        return Ok(read_error(reader)?.map(|error| error.message));
    }
    let mut complaints: Vec<String> = Vec::new();
    reader.array(|reader, index| {
        if index >= DETAILS_MAX || reader.kind()? != Kind::Object {
            return reader.skip();
        }
        let (mut place, mut message) = (String::new(), None);
        reader.object(|reader, key| {
            match &*key {
                "loc" => place = read_place(reader)?,
                "msg" => message = read_text(reader)?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        complaints
            .extend(message.map(|message| if place.is_empty() { message } else { place + ": " + &message }));
        Ok(())
    })?;
    Ok((!complaints.is_empty()).then(|| in_short(&complaints.join("; "))))
}

/// Reads `["body", "messages", 0]` as `body.messages.0`.
fn read_place(reader: &mut Reader<'_>) -> Result<String, Error> {
    if reader.kind()? != Kind::Array {
        return Ok(read_word(reader)?.unwrap_or_default());
    }
    let mut parts = Vec::new();
    reader.array(|reader, _| {
        parts.extend(read_word(reader)?);
        Ok(())
    })?;
    Ok(parts.join("."))
}

/// Reads a string; `None` for anything else.
fn read_text(reader: &mut Reader<'_>) -> Result<Option<String>, Error> {
    match reader.kind()? {
        Kind::String => Ok(Some(in_short(&reader.string()?))),
        _ => reader.skip().map(|()| None),
    }
}

/// Reads a string or number; `None` for anything else.
fn read_word(reader: &mut Reader<'_>) -> Result<Option<String>, Error> {
    match reader.kind()? {
        Kind::Number => Ok(Some(in_short(reader.number()?.text))),
        _ => read_text(reader),
    }
}

fn in_short(text: &str) -> String {
    let plain = |c: char| if breaks(c) || c.is_control() { ' ' } else { c };
    text.trim().chars().take(MESSAGE_MAX).map(plain).collect()
}

/// Whether some reader of lines ends a line here, which JSON does not escape.
fn breaks(c: char) -> bool {
    matches!(c, '\u{7f}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn in_one_line(text: &str) -> Cow<'_, str> {
    if text.contains(breaks) { text.replace(breaks, " ").into() } else { text.into() }
}

/// A frame that tells the client of an error in the midst of a stream. In the dialect of completions [`DONE`]
/// follows it, in that of responses nothing.
#[must_use]
pub fn error_event(dialect: Dialect, error: &ErrorText) -> Bytes {
    let message = in_one_line(&error.message);
    let [kind, param, code] =
        [&error.kind, &error.param, &error.code].map(|word| word.as_deref().map(in_one_line));
    let tell = |object: &mut Object<'_>| {
        value(object.key("message"), &message);
        value(object.key("type"), &kind);
        value(object.key("param"), &param);
        value(object.key("code"), &code);
    };
    let mut out = Vec::with_capacity(128 + 2 * message.len());
    out.extend_from_slice(match dialect {
        Dialect::Completions => b"data: ",
        Dialect::Responses => b"event: error\ndata: ",
    });
    let mut event = Object::open(&mut out);
    if dialect == Dialect::Responses {
        // Documented flat, but sent nested, which is what clients raise on.
        value(event.key("type"), "error");
        value(event.key("code"), &code);
        value(event.key("message"), &message);
        value(event.key("param"), &param);
    }
    let mut nested = Object::open(event.key("error"));
    tell(&mut nested);
    nested.close();
    event.close();
    out.extend_from_slice(b"\n\n");
    out.into()
}

#[cfg(test)]
mod tests;
