//! Embeddings and reranking: numbers derived from the words of a text, so that texts that share words are close.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    digest::{self, Draws},
    error::Error,
    options::Options,
    prompt::Prompt,
    request::{Text, check_model, parse},
    wire::Usage,
};

/// Numbers of a vector where the client does not ask for another length.
const DIMENSIONS: usize = 384;
const DIMENSIONS_MAX: usize = 4096;
/// Inputs of a call, as many as OpenAI takes.
const INPUTS_MAX: usize = 2048;
/// Numbers of an answer, over all its vectors.
const NUMBERS_MAX: usize = 1 << 20;
/// Words of a text that its vector depends on.
const WORDS_MAX: usize = 256;

/// A call that asks for no text: its prompts take prefill only.
#[derive(Debug)]
pub(super) struct Vectors {
    pub(super) prompt_tokens: usize,
    pub(super) body: Value,
    kind: &'static str,
}

impl Vectors {
    /// Gives the answer an id of its own.
    pub(super) fn name(&mut self, number: u64) {
        if let Some(fields) = self.body.as_object_mut() {
            fields.insert("id".to_owned(), json!(format!("{}-sim{number:016x}", self.kind)));
        }
    }
}

#[derive(Deserialize)]
struct Embeddings {
    model: String,
    input: Text,
    encoding_format: Option<Format>,
    dimensions: Option<usize>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Float,
    Base64,
}

#[derive(Deserialize)]
struct Rerank {
    model: String,
    query: String,
    documents: Vec<Document>,
    top_n: Option<usize>,
    return_documents: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Text(String),
    Object { text: String },
}

impl Document {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Object { text } => text,
        }
    }
}

/// The answer to `/v1/embeddings`.
pub(super) fn embeddings(body: &[u8], options: &Options) -> Result<Vectors, Error> {
    let request: Embeddings = parse(body)?;
    check_model(&request.model, options)?;
    let dimensions = request.dimensions.unwrap_or(DIMENSIONS);
    if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
        return Err(Error::Parameter { parameter: "dimensions", problem: "must be 1 to 4096" });
    }
    let prompts = request.input.prompts();
    check_count("input", prompts.len())?;
    if prompts.len() * dimensions > NUMBERS_MAX {
        return Err(Error::Parameter { parameter: "input", problem: "takes 1048576 numbers at most" });
    }
    let format = request.encoding_format.unwrap_or(Format::Float);
    let mut prompt_tokens = 0;
    let mut data = Vec::with_capacity(prompts.len());
    for (index, (prompt, text)) in prompts.iter().enumerate() {
        check_context(prompt, options)?;
        prompt_tokens += prompt.tokens();
        let vector = vector(prompt, text, dimensions);
        data.push(json!({ "object": "embedding", "index": index, "embedding": encode(&vector, format) }));
    }
    let usage = Usage { prompt: prompt_tokens, ..Usage::default() };
    let body = json!({ "object": "list", "model": options.model, "data": data, "usage": usage.to_json() });
    Ok(Vectors { prompt_tokens, body, kind: "embd" })
}

/// The answer to `/v1/rerank`: the share of the query's words that a document has.
pub(super) fn rerank(body: &[u8], options: &Options) -> Result<Vectors, Error> {
    let request: Rerank = parse(body)?;
    check_model(&request.model, options)?;
    check_count("documents", request.documents.len())?;
    let query = words(&request.query);
    let mut prompt_tokens = 0;
    let mut scored = Vec::with_capacity(request.documents.len());
    for (index, document) in request.documents.iter().enumerate() {
        let pair = Prompt::of_text(&format!("{}\n{}", request.query, document.text()));
        check_context(&pair, options)?;
        prompt_tokens += pair.tokens();
        let shared = query.intersection(&words(document.text())).count();
        scored.push((index, shared as f64 / query.len().max(1) as f64));
    }
    scored.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    scored.truncate(request.top_n.unwrap_or(usize::MAX));
    let shown = request.return_documents.unwrap_or(true);
    let result = |&(index, score): &(usize, f64)| match request.documents.get(index).filter(|_| shown) {
        Some(document) => {
            json!({ "index": index, "relevance_score": score, "document": { "text": document.text() } })
        }
        None => json!({ "index": index, "relevance_score": score }),
    };
    let results: Vec<_> = scored.iter().map(result).collect();
    let body = json!({
        "model": options.model,
        "usage": { "prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens },
        "results": results,
    });
    Ok(Vectors { prompt_tokens, body, kind: "rerank" })
}

fn check_count(parameter: &'static str, count: usize) -> Result<(), Error> {
    match count {
        0 => Err(Error::Parameter { parameter, problem: "there is none" }),
        count if count > INPUTS_MAX => Err(Error::Parameter { parameter, problem: "takes 2048 at most" }),
        _ => Ok(()),
    }
}

fn check_context(prompt: &Prompt, options: &Options) -> Result<(), Error> {
    let (tokens, context) = (prompt.tokens(), options.context);
    if tokens > context { Err(Error::Context { tokens, context }) } else { Ok(()) }
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_lowercase).collect()
}

/// The sum of a vector for each word, of length 1. Token ids have no words; their vector is that of them all.
fn vector(prompt: &Prompt, text: &str, dimensions: usize) -> Vec<f32> {
    let mut seeds: Vec<u64> =
        text.split_whitespace().take(WORDS_MAX).map(|word| digest::of(word.as_bytes())).collect();
    if seeds.is_empty() {
        seeds.push(prompt.digest());
    }
    let mut vector = vec![0.0; dimensions];
    for seed in seeds {
        let mut draws = Draws::new(seed);
        vector.iter_mut().for_each(|number| *number += draws.unit() - 0.5);
    }
    let length = vector.iter().map(|number| number * number).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    vector.iter().map(|number| (number / length) as f32).collect()
}

fn encode(vector: &[f32], format: Format) -> Value {
    match format {
        Format::Float => json!(vector),
        Format::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            Value::from(STANDARD.encode(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embed(input: &Value, more: &str) -> Value {
        let body = format!(r#"{{"model":"sim","input":{input}{more}}}"#);
        embeddings(body.as_bytes(), &Options::default()).unwrap().body
    }

    fn first(answer: &Value) -> Vec<f64> {
        answer["data"][0]["embedding"].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
    }

    fn cosine(one: &str, other: &str) -> f64 {
        let (one, other) = (first(&embed(&json!(one), "")), first(&embed(&json!(other), "")));
        one.iter().zip(&other).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn texts_that_share_words_have_close_vectors_of_length_one() {
        assert!((cosine("a red fox", "a red fox") - 1.0).abs() < 1e-3);
        assert!(cosine("a red fox", "the red fox") > cosine("a red fox", "many blue birds") + 0.3);
    }

    #[test]
    fn every_input_has_a_vector_that_depends_on_nothing_else() {
        let both = embed(&json!(["one", "two"]), "");
        assert_eq!(both["data"][1]["embedding"], embed(&json!("two"), "")["data"][0]["embedding"]);
        assert_eq!(both["data"][1]["index"], 1);
        let ids = embed(&json!([[1, 2], [1, 3], [1, 2]]), "");
        assert_eq!(ids["data"][0]["embedding"], ids["data"][2]["embedding"]);
        assert_ne!(ids["data"][0]["embedding"], ids["data"][1]["embedding"]);
        assert_eq!(ids["usage"]["prompt_tokens"], 6);
    }

    #[test]
    fn the_length_and_the_format_are_the_clients_choice() {
        let numbers = embed(&json!("x"), r#","dimensions":3"#);
        assert_eq!(first(&numbers).len(), 3);
        assert_eq!(first(&embed(&json!("x"), "")).len(), DIMENSIONS);
        let packed = embed(&json!("x"), r#","dimensions":3,"encoding_format":"base64""#);
        let bytes = STANDARD.decode(packed["data"][0]["embedding"].as_str().unwrap()).unwrap();
        let unpacked: Vec<_> = bytes
            .chunks_exact(4)
            .map(|four| f64::from(f32::from_le_bytes(four.try_into().unwrap())))
            .collect();
        assert!(unpacked.iter().zip(first(&numbers)).all(|(a, b)| (a - b).abs() < 1e-6), "{unpacked:?}");
    }

    #[test]
    fn documents_are_ranked_by_the_words_they_share_with_the_query() {
        let body = json!({"model": "sim", "query": "red fox", "top_n": 2,
            "documents": ["blue bird", {"text": "A Red fox"}, "red car"]});
        let answer = rerank(body.to_string().as_bytes(), &Options::default()).unwrap().body;
        let ranked: Vec<_> = answer["results"].as_array().unwrap().iter().map(|one| &one["index"]).collect();
        assert_eq!(ranked, [&json!(1), &json!(2)]);
        assert_eq!(answer["results"][0]["relevance_score"], 1.0);
        assert_eq!(answer["results"][0]["document"]["text"], "A Red fox");
    }

    #[test]
    fn calls_that_ask_for_too_little_or_too_much_are_refused() {
        for body in [
            r#"{"model":"sim","input":[]}"#,
            r#"{"model":"sim","input":"x","dimensions":0}"#,
            r#"{"model":"sim","input":"x","dimensions":5000}"#,
            r#"{"model":"sim","input":"x","encoding_format":"text"}"#,
            r#"{"model":"other","input":"x"}"#,
            r#"{"model":"sim"}"#,
        ] {
            assert!(embeddings(body.as_bytes(), &Options::default()).is_err(), "{body}");
        }
        let long = json!({"model": "sim", "input": "x".repeat(4 * 128_000 + 1)}).to_string();
        assert!(matches!(embeddings(long.as_bytes(), &Options::default()), Err(Error::Context { .. })));
    }
}
