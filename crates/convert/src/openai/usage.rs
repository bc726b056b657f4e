//! How many tokens a call took, as engines tell it.

use crate::{
    error::Error,
    json::{Kind, Reader},
};

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
