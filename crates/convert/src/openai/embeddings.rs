//! Requests for embeddings as rows: what several callers ask of one model goes to it in one call, and each gets
//! its own rows back.

use std::ops::Range;

use bytes::Bytes;

use crate::{
    error::Error,
    json::{self, Kind, Object, Reader, once},
};

mod rows;
mod split;

pub use rows::{credential, decode_response, encode_response};
pub use split::{Share, split};

/// Most inputs of a request that is taken apart, as OpenAI's own limit is.
pub const INPUTS_MAX: usize = 2048;

/// A request taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingsRequest {
    inputs: Vec<Bytes>,
    rest: Bytes,
    kind: InputKind,
}

/// What two requests must have in common to be merged: the same members beside their inputs, in the same order
/// and writing, and inputs of one kind. `user` does not count, and does not reach the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    rest: Bytes,
    kind: InputKind,
}

/// What an input is: engines take no list of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum InputKind {
    Text,
    Tokens,
}

impl EmbeddingsRequest {
    /// The raw JSON of each input: a string, or a list of token ids. Never empty.
    #[must_use]
    pub fn inputs(&self) -> &[Bytes] {
        &self.inputs
    }

    #[must_use]
    pub fn key(&self) -> Key {
        Key { rest: self.rest.clone(), kind: self.kind }
    }

    /// What this request is of a merged one.
    #[must_use]
    pub fn share(&self) -> Share {
        Share { rows: self.inputs.len(), bytes: self.inputs.iter().map(Bytes::len).sum() }
    }
}

/// Takes a request apart. Its inputs stay where they are.
///
/// # Errors
/// If it is not one whole JSON object, or its `input` is missing, empty, neither text nor tokens, or more than
/// [`INPUTS_MAX`]. Such a request may still make sense to an engine if it is handed on whole.
pub fn decode(body: &Bytes) -> Result<EmbeddingsRequest, Error> {
    let mut reader = Reader::new(body, json::Dialect::Strict)?;
    if reader.kind()? != Kind::Object {
        return Err(Error::NotAnObject);
    }
    let mut input = None;
    let mut rest = Vec::new();
    reader.object(|reader, key| match &*key {
        "input" => once(&mut input, &key, Input::read(reader)?),
        "user" => reader.skip(),
        _ => {
            let at = reader.skip_range()?;
            rest.push(b',');
            json::value(&mut rest, &key);
            rest.push(b':');
            rest.extend_from_slice(reader.raw(at).as_bytes());
            Ok(())
        }
    })?;
    reader.end()?;
    let Input { parts, kind } = input.ok_or(Error::MissingField("input"))?;
    let inputs = parts.into_iter().map(|part| body.slice(part)).collect();
    Ok(EmbeddingsRequest { inputs, rest: rest.into(), kind })
}

/// One request for all inputs, in order. The requests must have one [`Key`].
#[must_use]
pub fn merge(requests: &[&EmbeddingsRequest]) -> Bytes {
    let rest = requests.first().map(|request| request.rest.clone()).unwrap_or_default();
    let inputs = requests.iter().flat_map(|request| &request.inputs);
    let bytes: usize = inputs.clone().map(|input| input.len() + 1).sum();
    let mut out = Vec::with_capacity(bytes + rest.len() + 16);
    let mut request = Object::open(&mut out);
    let list = request.key("input");
    let Ok(()) = json::array(list, inputs, |out, input| {
        out.extend_from_slice(input);
        Ok::<_, std::convert::Infallible>(())
    });
    list.extend_from_slice(&rest);
    request.close();
    out.into()
}

/// Where the inputs of a request stand.
struct Input {
    parts: Vec<Range<usize>>,
    kind: InputKind,
}

impl Input {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        match reader.kind()? {
            Kind::String => Ok(Self { parts: vec![reader.skip_range()?], kind: InputKind::Text }),
            Kind::Array => Self::read_list(reader),
            _ => Err(wrong_input()),
        }
    }

    /// Reads a list of texts, of token lists, or of tokens, which is one input.
    fn read_list(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let start = reader.start();
        let (mut parts, mut first) = (Vec::new(), None);
        reader.array(|reader, index| {
            let kind = reader.kind()?;
            if *first.get_or_insert(kind) != kind {
                return Err(wrong_input());
            }
            let part = match kind {
                Kind::Number => return reader.skip(),
                Kind::Array => read_tokens(reader)?,
                Kind::String => reader.skip_range()?,
                _ => return Err(wrong_input()),
            };
            if index >= INPUTS_MAX {
                return Err(Error::TooManyInputs { limit: INPUTS_MAX });
            }
            parts.push(part);
            Ok(())
        })?;
        let kind = match first {
            None => return Err(Error::Empty("input")),
            Some(Kind::String) => InputKind::Text,
            Some(_) => InputKind::Tokens,
        };
        if first == Some(Kind::Number) {
            parts.push(start..reader.position());
        }
        Ok(Self { parts, kind })
    }
}

fn read_tokens(reader: &mut Reader<'_>) -> Result<Range<usize>, Error> {
    let start = reader.start();
    reader.array(|reader, _| match reader.kind()? {
        Kind::Number => reader.skip(),
        _ => Err(wrong_input()),
    })?;
    Ok(start..reader.position())
}

fn wrong_input() -> Error {
    Error::FieldType { field: "input", expected: "a text or tokens, or a list of one of these" }
}

#[cfg(test)]
mod tests;
