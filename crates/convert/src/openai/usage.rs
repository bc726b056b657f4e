//! How many tokens a call took, as engines tell it.

use memchr::memmem;

use crate::{
    error::Error,
    json::{Dialect, Kind, Reader},
};

const KEY: &[u8] = br#""usage""#;
/// Places of the key that are tried from the end of a body, before it is read from its start.
const TRIES: usize = 4;

/// Whether a body is one whole JSON object, as the answers of all endpoints are.
#[must_use]
pub fn is_answer(body: &[u8]) -> bool {
    let whole = |mut reader: Reader<'_>| {
        if reader.kind()? != Kind::Object {
            return Err(Error::NotAnObject);
        }
        reader.skip()?;
        reader.end()
    };
    Reader::new(body, Dialect::Lenient).and_then(whole).is_ok()
}

/// Tokens of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Those of the prompt that the engine had in its cache.
    pub cached_tokens: u64,
}

impl Usage {
    /// Reads the value of a `usage` member, in the words of any endpoint; `None` if it is not an object.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, Error> {
        if reader.kind()? != Kind::Object {
            return reader.skip().map(|()| None);
        }
        let mut usage = Self::default();
        let (mut prompt, mut total) = (None, None);
        reader.object(|reader, key| {
            match &*key {
                "prompt_tokens" | "input_tokens" => prompt = read_tokens(reader)?,
                "completion_tokens" | "output_tokens" => {
                    usage.completion_tokens = read_tokens(reader)?.unwrap_or_default();
                }
                "total_tokens" => total = read_tokens(reader)?,
                "prompt_tokens_details" | "input_tokens_details" => {
                    usage.cached_tokens = read_cached(reader)?;
                }
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        // Rerankers tell the total alone.
        let rest = total.unwrap_or_default().saturating_sub(usage.completion_tokens);
        usage.prompt_tokens = prompt.unwrap_or(rest);
        Ok(Some(usage))
    }
}

/// The usage in a whole answer, of any endpoint, that is not streamed.
///
/// Only the end of the answer is read, if its usage is there: a megabyte of vectors before it costs nothing.
#[must_use]
pub fn usage_of(body: &[u8]) -> Option<Usage> {
    let mut end = body.len();
    for _ in 0..TRIES {
        end = memmem::rfind(body.get(..end)?, KEY)?;
        // Else the first quote is of a longer key, or of no key.
        let (before, after) = body.split_at(end);
        if let Some(b'{' | b',') = before.trim_ascii_end().last()
            && let Ok(usage) = read_end(after)
        {
            return usage;
        }
    }
    read_top(body).ok().flatten()
}

/// Reads `"usage":…}` to the end of the body. If there is one closing bracket after it and no more, and members
/// before that, it is a member of the outermost object.
fn read_end(end: &[u8]) -> Result<Option<Usage>, Error> {
    let mut reader = Reader::new(end, Dialect::Lenient)?;
    let mut usage = None;
    reader.rest_of_object(|reader, key| read_member(reader, &key, &mut usage))?;
    reader.end()?;
    Ok(usage)
}

fn read_top(body: &[u8]) -> Result<Option<Usage>, Error> {
    let mut reader = Reader::new(body, Dialect::Lenient)?;
    let mut usage = None;
    reader.object(|reader, key| read_member(reader, &key, &mut usage))?;
    reader.end()?;
    Ok(usage)
}

fn read_member(reader: &mut Reader<'_>, key: &str, usage: &mut Option<Usage>) -> Result<(), Error> {
    match key {
        "usage" => {
            *usage = Usage::read(reader)?;
            Ok(())
        }
        _ => reader.skip(),
    }
}

fn read_tokens(reader: &mut Reader<'_>) -> Result<Option<u64>, Error> {
    match reader.kind()? {
        Kind::Number => Ok(reader.number()?.whole()),
        _ => reader.skip().map(|()| None),
    }
}

fn read_cached(reader: &mut Reader<'_>) -> Result<u64, Error> {
    let mut cached = None;
    if reader.kind()? != Kind::Object {
        reader.skip()?;
        return Ok(0);
    }
    reader.object(|reader, key| match &*key {
        "cached_tokens" => {
            cached = read_tokens(reader)?;
            Ok(())
        }
        _ => reader.skip(),
    })?;
    Ok(cached.unwrap_or_default())
}

#[cfg(test)]
mod tests;
