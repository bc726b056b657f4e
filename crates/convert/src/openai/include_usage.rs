//! Whether a streamed answer will say how many tokens it took, and how to make it.

use std::ops::Range;

use bytes::Bytes;

use crate::{
    error::Error,
    json::{Kind, Reader, once},
};

/// Whether an answer tells its usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IncludeUsage {
    /// The client asked for it.
    Asked,
    /// Unasked: the answer is not streamed, or is of an endpoint whose last frame tells it anyway.
    Always,
    /// Only after [`with_usage`], and then the client did not ask for the frame it comes in.
    Missing(Splice),
}

/// Where bytes of a body give way to a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice {
    at: Range<usize>,
    text: &'static str,
}

impl Splice {
    /// For a body whose first member starts at `at`, without `stream_options`.
    pub(super) fn first_member(at: usize) -> Self {
        Self { at: at..at, text: r#""stream_options":{"include_usage":true},"# }
    }
}

/// The body that `peek` was read from, changed so that its answer tells the usage: the three parts follow one
/// another, and nothing is copied. Unchanged, in the first part, unless usage is [`IncludeUsage::Missing`].
///
/// # Panics
/// If `body` is shorter than the one `peek` was read from.
#[must_use]
pub fn with_usage(peek: &super::Peek, body: Bytes) -> [Bytes; 3] {
    let IncludeUsage::Missing(Splice { at, text }) = &peek.usage else {
        return [body, Bytes::new(), Bytes::new()];
    };
    let text = Bytes::from_static(text.as_bytes());
    [body.slice(..at.start), text, body.slice(at.end..)]
}

/// Reads `stream_options`: what to change in it, nothing if it asks for the usage.
pub(super) fn read_options(reader: &mut Reader<'_>) -> Result<Option<Splice>, Error> {
    match reader.kind()? {
        Kind::Null => {
            let at = reader.skip_range()?;
            Ok(Some(Splice { at, text: r#"{"include_usage":true}"# }))
        }
        Kind::Object => read_object(reader),
        _ => Err(Error::FieldType { field: "stream_options", expected: "an object" }),
    }
}

fn read_object(reader: &mut Reader<'_>) -> Result<Option<Splice>, Error> {
    let inside = reader.start() + 1;
    let mut include = None;
    let mut is_empty = true;
    reader.object(|reader, key| {
        is_empty = false;
        match &*key {
            "include_usage" => once(&mut include, &key, read_include(reader)?),
            _ => reader.skip(),
        }
    })?;
    let first = if is_empty { r#""include_usage":true"# } else { r#""include_usage":true,"# };
    Ok(include.unwrap_or(Some(Splice { at: inside..inside, text: first })))
}

fn read_include(reader: &mut Reader<'_>) -> Result<Option<Splice>, Error> {
    match reader.kind()? {
        Kind::True => reader.skip().map(|()| None),
        Kind::False | Kind::Null => Ok(Some(Splice { at: reader.skip_range()?, text: "true" })),
        _ => Err(Error::FieldType { field: "include_usage", expected: "true or false" }),
    }
}
