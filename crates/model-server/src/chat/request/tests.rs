use serde_json::json;

use super::*;
use crate::chat::options::OutputTokens;

fn parsed(surface: Surface, body: &Value) -> Result<Generation, Error> {
    Generation::parse(surface, body.to_string().as_bytes(), &Options::default())
}

fn chat(more: &Value) -> Result<Generation, Error> {
    let mut body = json!({"model": "sim", "messages": [{"role": "user", "content": "red green blue"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    parsed(Surface::Chat, &body)
}

#[test]
fn a_chat_echoes_the_words_of_its_last_message() {
    let body = json!({"model": "sim", "max_tokens": 4, "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "one two"}, {"type": "text", "text": "three"}]}]});
    let asked = parsed(Surface::Chat, &body).unwrap();
    assert_eq!(asked.answer.text(), "one two three one");
    assert_eq!(asked.answer.finish(), Finish::Length);
    assert!(!asked.stream && !asked.include_usage);
    let rendered = "<|system|>\nbe brief\n<|user|>\none two three\n<|assistant|>\n";
    assert_eq!(asked.prompt.tokens(), rendered.len().div_ceil(4));
    assert_eq!(asked.prompt.digest(), Prompt::of_text(rendered).digest());
}

#[test]
fn a_conversation_that_goes_on_begins_with_what_was_said() {
    let long = "word ".repeat(40);
    let first = json!({"model": "sim", "messages": [{"role": "user", "content": long}]});
    let first = parsed(Surface::Chat, &first).unwrap();
    let next = json!({"model": "sim", "messages": [
        {"role": "user", "content": long},
        {"role": "assistant", "content": first.answer.text()},
        {"role": "user", "content": "go on"}]});
    let next = parsed(Surface::Chat, &next).unwrap();
    let mut said = first.prompt.clone();
    first.answer.pieces().for_each(|piece| said.push(piece.as_bytes()));
    assert!(said.blocks().len() > first.prompt.blocks().len());
    assert!(next.prompt.blocks().starts_with(said.blocks()));
}

#[test]
fn how_long_an_answer_is_depends_on_the_clients_limit() {
    for (more, tokens, finish) in [
        (json!({}), 128, Finish::Stop),
        (json!({"max_tokens": 7}), 7, Finish::Length),
        (json!({"max_completion_tokens": 6, "max_tokens": 7}), 6, Finish::Length),
        (json!({"max_tokens": 7, "stop": "blue"}), 3, Finish::Stop),
        (json!({"max_tokens": 7, "stop": ["zzz", "green"]}), 2, Finish::Stop),
    ] {
        let asked = chat(&more).unwrap();
        assert_eq!((asked.answer.tokens(), asked.answer.finish()), (tokens, finish), "{more}");
    }
    let options = Options { output_tokens: OutputTokens::Range(5..=9), ..Options::default() };
    let body = br#"{"model":"sim","messages":[{"role":"user","content":"hi"}],"max_tokens":1000}"#;
    let answer = Generation::parse(Surface::Chat, body, &options).unwrap().answer;
    assert!((5..=9).contains(&answer.tokens()) && answer.finish() == Finish::Stop);
}

#[test]
fn the_context_bounds_prompt_and_answer_together() {
    let options = Options { context: 20, ..Options::default() };
    let parse = |body: &str| Generation::parse(Surface::Completion, body.as_bytes(), &options);
    // Four tokens of prompt leave sixteen.
    assert_eq!(parse(r#"{"model":"sim","prompt":"0123456789abcdef"}"#).unwrap().answer.tokens(), 16);
    assert!(parse(r#"{"model":"sim","prompt":"0123456789abcdef","max_tokens":16}"#).is_ok());
    let refused = parse(r#"{"model":"sim","prompt":"0123456789abcdef","max_tokens":17}"#);
    assert!(matches!(refused, Err(Error::Context { tokens: 21, context: 20 })));
}

#[test]
fn completions_and_responses_are_read_in_all_their_forms() {
    for (surface, body, tokens) in [
        (Surface::Completion, json!({"model": "sim", "prompt": "12345678"}), 2),
        (Surface::Completion, json!({"model": "sim", "prompt": ["12345678"]}), 2),
        (Surface::Completion, json!({"model": "sim", "prompt": [5, 6, 7]}), 3),
        (Surface::Completion, json!({"model": "sim", "prompt": [[5, 6, 7]]}), 3),
        (Surface::Responses, json!({"model": "sim", "input": "hi"}), 7),
        (Surface::Responses, json!({"model": "sim", "input": [{"role": "user", "content": "hi"}]}), 7),
    ] {
        let asked = parsed(surface, &body).unwrap();
        assert_eq!(asked.prompt.tokens(), tokens, "{body}");
    }
    let body = json!({"model": "sim", "input": "hi", "instructions": "be brief", "stream": true});
    let asked = parsed(Surface::Responses, &body).unwrap();
    assert!(asked.stream && asked.prompt.tokens() > 7);
}

#[test]
fn streams_and_their_usage_are_the_clients_choice() {
    let asked = chat(&json!({"stream": true, "stream_options": {"include_usage": true}})).unwrap();
    assert!(asked.stream && asked.include_usage);
}

#[test]
fn what_is_not_simulated_is_refused_rather_than_ignored() {
    for more in [
        json!({"n": 2}),
        json!({"max_tokens": 0}),
        json!({"max_tokens": -1}),
        json!({"messages": []}),
        json!({"messages": "hi"}),
        json!({"logprobs": true}),
        json!({"stop": ["a", "b", "c", "d", "e"]}),
        json!({"stop": ""}),
        json!({"stream": "yes"}),
        json!({"max_tokens": 1_000_000}),
    ] {
        assert_eq!(chat(&more).err().map(|error| error.status().as_u16()), Some(400), "{more}");
    }
    assert_eq!(chat(&json!({"model": "gpt"})).err().map(|error| error.status().as_u16()), Some(404));
    for more in [json!({"n": 1}), json!({"temperature": 0.5, "seed": 1}), json!({"stop": null})] {
        assert!(chat(&more).is_ok(), "{more}");
    }
    let several = json!({"model": "sim", "prompt": ["a", "b"]});
    assert!(parsed(Surface::Completion, &several).is_err());
}
