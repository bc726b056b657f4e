//! What one frame tells. Ordinary ones, a token each, are told by a few searches for bytes; all others are read.

use std::{borrow::Cow, sync::LazyLock};

use memchr::{memchr, memmem::Finder};

use super::{super::failure::ErrorText, Dialect};
use crate::{
    error::Error,
    json::{self, Kind, Reader},
    openai::Usage,
};

/// What a frame tells.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Frame {
    pub(super) has_content: bool,
    /// Choices that ended with it.
    pub(super) finished: u32,
    pub(super) usage: Option<Usage>,
    /// Whether it has a usage, and no choice.
    pub(super) is_usage_only: bool,
    pub(super) is_last: bool,
    pub(super) error: Option<ErrorText>,
}

/// A key in its quotes. Text inside a string never looks like this: its quotes are escaped.
type Key = LazyLock<Finder<'static>>;

static CONTENT: Key = LazyLock::new(|| Finder::new(r#""content""#));
static TEXT: Key = LazyLock::new(|| Finder::new(r#""text""#));
static DELTA: Key = LazyLock::new(|| Finder::new(r#""delta""#));
static FINISH_REASON: Key = LazyLock::new(|| Finder::new(r#""finish_reason""#));
static USAGE: Key = LazyLock::new(|| Finder::new(r#""usage""#));

impl Frame {
    /// Reads a frame. What cannot be read tells nothing.
    pub(super) fn read(dialect: Dialect, text: &str) -> Self {
        let Fields { event, data } = Fields::read(text);
        match (dialect, data.trim_ascii()) {
            (_, "") => Self::default(),
            (_, "[DONE]") => Self { is_last: true, ..Self::default() },
            (_, data) if event == Some("error") => {
                Self { error: Some(ErrorText::of(data.as_bytes()).unwrap_or_default()), ..Self::default() }
            }
            (Dialect::Completions, data) => Self::of_chunk(data),
            (Dialect::Responses, data) => Self::of_event(event, data),
        }
    }

    /// A chunk of a chat or text completion.
    fn of_chunk(data: &str) -> Self {
        if is_plain_content(data.as_bytes()) {
            return Self { has_content: true, ..Self::default() };
        }
        let mut chunk = Chunk::default();
        if read_whole(data, |reader, key| chunk.read(reader, key)).is_err() {
            return Self::default();
        }
        let Chunk { choices, has_content, finished, usage, is_error } = chunk;
        Self {
            has_content,
            finished,
            usage,
            is_usage_only: usage.is_some() && choices == Some(0) && !is_error,
            is_last: false,
            error: is_error.then(|| ErrorText::of(data.as_bytes()).unwrap_or_default()),
        }
    }

    /// An event of a response.
    fn of_event(event: Option<&str>, data: &str) -> Self {
        if event.is_some_and(|event| event.ends_with(".delta")) && first_is(&DELTA, data, is_text) {
            return Self { has_content: true, ..Self::default() };
        }
        let mut response = Event { kind: event.map(Cow::Borrowed), ..Event::default() };
        if read_whole(data, |reader, key| response.read(reader, key)).is_err() {
            return Self::default();
        }
        let Event { kind, has_delta, usage, is_error } = response;
        let kind = kind.as_deref().unwrap_or_default();
        let failed = is_error || matches!(kind, "response.failed" | "error");
        Self {
            has_content: has_delta && kind.ends_with(".delta"),
            usage,
            is_last: matches!(kind, "response.completed" | "response.incomplete" | "response.failed"),
            error: failed.then(|| response_error(data)),
            ..Self::default()
        }
    }
}

/// The fields of a frame that matter.
struct Fields<'a> {
    event: Option<&'a str>,
    data: Cow<'a, str>,
}

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Self {
        if let Some(data) = single_data(text) {
            return Self { event: None, data: Cow::Borrowed(data) };
        }
        let mut fields = Self { event: None, data: Cow::Borrowed("") };
        for line in text.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => fields.event = Some(value),
                "data" => fields.add(value),
                // Older llama.cpp.
                "error" => {
                    fields.event = Some("error");
                    fields.add(value);
                }
                _ => {}
            }
        }
        fields
    }

    fn add(&mut self, line: &'a str) {
        if self.data.is_empty() {
            self.data = Cow::Borrowed(line);
        } else {
            let data = self.data.to_mut();
            data.push('\n');
            data.push_str(line);
        }
    }
}

/// The data of a frame that has one line.
fn single_data(text: &str) -> Option<&str> {
    let data = text.strip_prefix("data:")?.trim_ascii();
    memchr(b'\n', data.as_bytes()).is_none().then_some(data)
}

/// Whether the chunk surely has text for the user, and surely nothing else to tell. By the order of the keys
/// the first `content` is that of the text, not that of its log probabilities, whose value is a list.
fn is_plain_content(data: &[u8]) -> bool {
    (first_is_bytes(&CONTENT, data, is_text) || first_is_bytes(&TEXT, data, is_text))
        && all_are_null(&FINISH_REASON, data)
        && all_are_null(&USAGE, data)
}

fn first_is(key: &Finder<'_>, data: &str, test: fn(&[u8]) -> bool) -> bool {
    first_is_bytes(key, data.as_bytes(), test)
}

fn first_is_bytes(key: &Finder<'_>, data: &[u8], test: fn(&[u8]) -> bool) -> bool {
    key.find(data).and_then(|at| value_of(key, data, at)).is_some_and(test)
}

fn all_are_null(key: &Finder<'_>, data: &[u8]) -> bool {
    key.find_iter(data).all(|at| value_of(key, data, at).is_some_and(|value| value.starts_with(b"null")))
}

/// What follows the key at `at` and its colon; `None` if it is no key after all.
fn value_of<'d>(key: &Finder<'_>, data: &'d [u8], at: usize) -> Option<&'d [u8]> {
    let after = data.get(at + key.needle().len()..)?;
    // Nearly always without white space.
    match after {
        [b':', value @ ..] if !value.first()?.is_ascii_whitespace() => Some(value),
        _ => Some(after.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start()),
    }
}

/// A string that is not empty.
fn is_text(value: &[u8]) -> bool {
    matches!(value, [b'"', first, ..] if *first != b'"')
}

fn read_whole<'a>(
    data: &'a str,
    member: impl FnMut(&mut Reader<'a>, Cow<'a, str>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut reader = Reader::new(data.as_bytes(), json::Dialect::Lenient)?;
    reader.object(member)?;
    reader.end()
}

#[derive(Default)]
struct Chunk {
    choices: Option<usize>,
    has_content: bool,
    finished: u32,
    usage: Option<Usage>,
    is_error: bool,
}

impl Chunk {
    fn read<'a>(&mut self, reader: &mut Reader<'a>, key: Cow<'a, str>) -> Result<(), Error> {
        match (&*key, reader.kind()?) {
            ("choices", Kind::Array) => {
                self.choices = Some(reader.array(|reader, _| self.read_choice(reader))?);
                Ok(())
            }
            ("usage", _) => {
                self.usage = Usage::read(reader)?;
                Ok(())
            }
            ("error", kind) => {
                self.is_error |= kind != Kind::Null;
                reader.skip()
            }
            ("object", Kind::String) => {
                self.is_error |= reader.string()? == "error";
                Ok(())
            }
            _ => reader.skip(),
        }
    }

    fn read_choice(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        if reader.kind()? != Kind::Object {
            return reader.skip();
        }
        reader.object(|reader, key| match (&*key, reader.kind()?) {
            ("delta", Kind::Object) => self.read_delta(reader),
            ("text", _) => {
                self.has_content |= read_filled(reader)?;
                Ok(())
            }
            ("finish_reason", kind) => {
                self.finished += u32::from(kind != Kind::Null);
                reader.skip()
            }
            _ => reader.skip(),
        })
    }

    /// Whatever a delta has besides its role is for the user, if it is not empty: engines differ in its names.
    fn read_delta(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        reader.object(|reader, key| {
            self.has_content |= read_filled(reader)? && key != "role";
            Ok(())
        })
    }
}

/// Reads past a value; whether it is a string, list or object with something in it.
fn read_filled(reader: &mut Reader<'_>) -> Result<bool, Error> {
    match reader.kind()? {
        Kind::String => Ok(reader.skip_range()?.len() > 2),
        Kind::Array => Ok(reader.array(|reader, _| reader.skip())? > 0),
        Kind::Object => {
            let mut filled = false;
            reader.object(|reader, _| {
                filled = true;
                reader.skip()
            })?;
            Ok(filled)
        }
        _ => reader.skip().map(|()| false),
    }
}

#[derive(Default)]
struct Event<'a> {
    kind: Option<Cow<'a, str>>,
    has_delta: bool,
    usage: Option<Usage>,
    /// An error as engines word it outside of responses, which clients raise on here as well.
    is_error: bool,
}

impl<'a> Event<'a> {
    fn read(&mut self, reader: &mut Reader<'a>, key: Cow<'a, str>) -> Result<(), Error> {
        match (&*key, reader.kind()?) {
            ("type", Kind::String) => {
                let kind = reader.string()?;
                self.kind.get_or_insert(kind);
                Ok(())
            }
            ("delta", _) => {
                self.has_delta = read_filled(reader)?;
                Ok(())
            }
            ("error", kind) => {
                self.is_error |= kind != Kind::Null;
                reader.skip()
            }
            ("response", Kind::Object) => reader.object(|reader, key| match &*key {
                "usage" => {
                    self.usage = Usage::read(reader)?;
                    Ok(())
                }
                _ => reader.skip(),
            }),
            _ => reader.skip(),
        }
    }
}

/// The error in an `error` event, or in the response that failed.
fn response_error(data: &str) -> ErrorText {
    let mut at = None;
    let found = read_whole(data, |reader, key| match &*key {
        "response" => {
            at = Some(reader.skip_range()?);
            Ok(())
        }
        _ => reader.skip(),
    });
    let text = found.ok().and(at).and_then(|at| data.get(at)).unwrap_or(data);
    ErrorText::of(text.as_bytes()).unwrap_or_default()
}
