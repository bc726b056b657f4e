//! Requests for embeddings in the pipeline's words: inputs are the rows of a tensor, answers come back as rows.
//!
//! The raw JSON of each input is one element of `BYTES`; what requests must have in common to be merged is in their
//! parameters, which the pipeline never merges across. A row of an answer is a whole answer to that one input.

use bytes::Bytes;
use pipeline::{
    request::{Inference, Outcome},
    tensor::{DataType, Parameter, Tensor},
};

use super::{EmbeddingsRequest, InputKind, Share, split};
use crate::{
    elements::{push_string, split_string},
    error::{Error, Problem},
    json::{self, Dialect, Object, Reader},
    openai::Usage,
};

const INPUT: &str = "input";
const ANSWER: &str = "answer";
/// Parameters of such an inference.
const REST: &str = "rest";
const TOKENS: &str = "tokens";
const CREDENTIAL: &str = "credential";

impl EmbeddingsRequest {
    /// This request as rows. Those of different `credential`s are never merged.
    #[must_use]
    pub fn to_inference(&self, credential: Option<&str>) -> Inference {
        let mut data = Vec::with_capacity(self.inputs.iter().map(|input| input.len() + 4).sum());
        self.inputs.iter().for_each(|input| push_string(&mut data, input));
        let shape = vec![self.inputs.len() as u64];
        let text = |text: &str| Parameter::String(text.to_owned());
        let mut inference = Inference {
            inputs: vec![Tensor::new(INPUT, DataType::Bytes, shape, data.into())],
            ..Inference::default()
        };
        let parameters = &mut inference.parameters;
        parameters.insert(REST.to_owned(), text(&String::from_utf8_lossy(&self.rest)));
        parameters.insert(TOKENS.to_owned(), Parameter::Bool(self.kind == InputKind::Tokens));
        if let Some(credential) = credential {
            parameters.insert(CREDENTIAL.to_owned(), text(credential));
        }
        inference
    }

    /// The request that was made into `inference`, alone or merged with others; `None` for any other inference.
    #[must_use]
    pub fn of_inference(inference: &Inference) -> Option<Self> {
        let [input] = inference.inputs.as_slice() else { return None };
        let (Some(Parameter::String(rest)), Some(Parameter::Bool(tokens))) =
            (inference.parameters.get(REST), inference.parameters.get(TOKENS))
        else {
            return None;
        };
        let inputs = strings(&input.data).ok()?;
        let kind = if *tokens { InputKind::Tokens } else { InputKind::Text };
        (!inputs.is_empty()).then(|| Self { inputs, rest: Bytes::from(rest.clone()), kind })
    }
}

/// The credential that goes with an inference made of requests for embeddings.
#[must_use]
pub fn credential(inference: &Inference) -> Option<&str> {
    match inference.parameters.get(CREDENTIAL) {
        Some(Parameter::String(credential)) => Some(credential),
        _ => None,
    }
}

/// The answer to `request` as rows.
///
/// # Errors
/// As [`split`].
pub fn decode_response(answer: &[u8], request: &EmbeddingsRequest) -> Result<Outcome, Error> {
    let share = |input: &Bytes| Share { rows: 1, bytes: input.len() };
    let shares: Vec<Share> = request.inputs.iter().map(share).collect();
    let rows = split(answer, &shares)?;
    let mut data = Vec::with_capacity(rows.iter().map(|row| row.len() + 4).sum());
    rows.iter().for_each(|row| push_string(&mut data, row));
    let answers = Tensor::new(ANSWER, DataType::Bytes, vec![rows.len() as u64], data.into());
    Ok(Outcome { outputs: vec![answers], ..Outcome::default() })
}

/// The answer that a client gets for its rows.
///
/// # Errors
/// If `outcome` is not one of [`decode_response`].
pub fn encode_response(outcome: &Outcome) -> Result<Bytes, Error> {
    let [answers] = outcome.outputs.as_slice() else { return Err(Error::MissingField(ANSWER)) };
    let rows = strings(&answers.data).map_err(|_| Error::MissingField(ANSWER))?;
    match rows.as_slice() {
        [one] => Ok(one.clone()),
        rows => join(rows),
    }
}

fn strings(data: &Bytes) -> Result<Vec<Bytes>, Problem> {
    let mut strings = Vec::new();
    let mut left = &**data;
    while !left.is_empty() {
        let (string, rest) = split_string(left, strings.len())?;
        strings.push(data.slice_ref(string));
        left = rest;
    }
    Ok(strings)
}

/// One answer of several of one row each. Their tokens are added up; of all else the first one tells.
fn join(rows: &[Bytes]) -> Result<Bytes, Error> {
    let first = rows.first().ok_or(Error::Empty("data"))?;
    let mut out = Vec::with_capacity(rows.iter().map(Bytes::len).sum());
    let mut answer = Object::open(&mut out);
    Reader::new(first, Dialect::Lenient)?.object(|reader, key| {
        let at = reader.skip_range()?;
        let value = answer.key(&key);
        match &*key {
            "data" => join_rows(rows, value),
            "usage" => join_usage(rows, value),
            _ => {
                value.extend_from_slice(reader.raw(at).as_bytes());
                Ok(())
            }
        }
    })?;
    answer.close();
    Ok(out.into())
}

fn join_rows(rows: &[Bytes], out: &mut Vec<u8>) -> Result<(), Error> {
    json::array(out, rows.iter().enumerate(), |out, (index, row)| {
        let mut reader = Reader::new(row, Dialect::Lenient)?;
        reader.object(|reader, key| {
            if &*key != "data" {
                return reader.skip();
            }
            reader.array(|reader, _| {
                let mut embedding = Object::open(out);
                reader.object(|reader, key| {
                    let at = reader.skip_range()?;
                    let value = embedding.key(&key);
                    match &*key {
                        "index" => json::value(value, &index),
                        _ => value.extend_from_slice(reader.raw(at).as_bytes()),
                    }
                    Ok(())
                })?;
                embedding.close();
                Ok(())
            })?;
            Ok(())
        })
    })
}

fn join_usage(rows: &[Bytes], out: &mut Vec<u8>) -> Result<(), Error> {
    let mut prompt_tokens = 0;
    for row in rows {
        Reader::new(row, Dialect::Lenient)?.object(|reader, key| match &*key {
            "usage" => {
                prompt_tokens += Usage::read(reader)?.unwrap_or_default().prompt_tokens;
                Ok(())
            }
            _ => reader.skip(),
        })?;
    }
    let mut usage = Object::open(out);
    json::value(usage.key("prompt_tokens"), &prompt_tokens);
    json::value(usage.key("total_tokens"), &prompt_tokens);
    usage.close();
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::openai::embeddings::{decode, merge};

    fn request(input: &Value) -> EmbeddingsRequest {
        let body = json!({"model": "m", "input": input, "dimensions": 2});
        decode(&Bytes::from(body.to_string())).unwrap()
    }

    #[test]
    fn a_request_comes_back_as_it_went() {
        for input in [json!("a"), json!(["a", "b\n"]), json!([[1, 2], [3]])] {
            let request = request(&input);
            let inference = request.to_inference(Some("Bearer k"));
            assert_eq!(inference.rows(), Some(request.inputs().len() as u64));
            assert_eq!(EmbeddingsRequest::of_inference(&inference), Some(request));
            assert_eq!(credential(&inference), Some("Bearer k"));
        }
        assert_eq!(EmbeddingsRequest::of_inference(&Inference::default()), None);
    }

    #[test]
    fn an_answer_to_several_inputs_is_joined_from_its_rows() {
        let request = request(&json!(["aaa", "b"]));
        let sent: Value = serde_json::from_slice(&merge(&[&request])).unwrap();
        assert_eq!(sent["input"], json!(["aaa", "b"]));
        let row = |index: u64| json!({"object": "embedding", "index": index, "embedding": [index, 0.5]});
        let answer = json!({"object": "list", "data": [row(1), row(0)], "model": "m",
            "usage": {"prompt_tokens": 9, "total_tokens": 9}});
        let outcome = decode_response(answer.to_string().as_bytes(), &request).unwrap();
        assert_eq!(outcome.outputs[0].shape, [2]);
        let joined: Value = serde_json::from_slice(&encode_response(&outcome).unwrap()).unwrap();
        let expected = json!({"object": "list", "data": [row(0), row(1)], "model": "m",
            "usage": {"prompt_tokens": 9, "total_tokens": 9}});
        assert_eq!(joined, expected);
    }

    #[test]
    fn too_few_rows_are_an_answer_for_nobody() {
        let answer = br#"{"data":[{"index":0,"embedding":[1]}]}"#;
        assert!(decode_response(answer, &request(&json!(["a", "b"]))).is_err());
    }
}
