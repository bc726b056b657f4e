use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn tokens(prompt: u64, completion: u64, cached: u64) -> Option<Usage> {
    Some(Usage { prompt_tokens: prompt, completion_tokens: completion, cached_tokens: cached })
}

#[test]
fn usage_is_found_in_the_words_of_every_endpoint() {
    let cases = [
        (
            r#"{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":9,"total_tokens":12,
            "completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8}},"prompt_logprobs":null}"#,
            tokens(9, 3, 8),
        ),
        (
            r#"{"usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":8,"x":1},"output_tokens":3}
            , "output":[]}"#,
            tokens(9, 3, 8),
        ),
        (r#"{"data":[],"usage":{"prompt_tokens":4,"total_tokens":4}}"#, tokens(4, 0, 0)),
        (r#"{"id":"r","usage":{"total_tokens":56},"results":[{"index":0}]}"#, tokens(56, 0, 0)),
        (r#"{"usage":{"prompt_tokens":4,"prompt_tokens_details":null}}"#, tokens(4, 0, 0)),
        (r#"{"usage":{"prompt_tokens":-4,"completion_tokens":"3"}}"#, tokens(0, 0, 0)),
        (r#"{"usage" : {}} "#, tokens(0, 0, 0)),
    ];
    for (body, usage) in cases {
        assert_eq!(usage_of(body.as_bytes()), usage, "{body}");
    }
}

#[test]
fn usage_that_is_not_the_answer_s_is_not_taken() {
    let cases = [
        "",
        "[]",
        r#"{"usage":null}"#,
        r#"{"usage":7}"#,
        r#"{"a":"usage"}"#,
        r#"{"a":{"usage":{"prompt_tokens":1}}}"#,
        r#"[{"usage":{"prompt_tokens":1}}]"#,
        r#"{"a":"\"usage\":{\"prompt_tokens\":1}}"}"#,
        r#"{"a":"\"usage":{"prompt_tokens":1}}"#,
        r#"{"usage":{"prompt_tokens":1}"#,
        r#"{"usage":{"prompt_tokens":1}}}"#,
    ];
    for body in cases {
        assert_eq!(usage_of(body.as_bytes()), None, "{body}");
    }
}

#[test]
fn usage_is_found_before_others_of_its_name() {
    let nested = r#"{"usage":{"prompt_tokens":1}}"#;
    for others in [1, TRIES, TRIES + 3] {
        let others = vec![nested; others].join(",");
        let body = format!(r#"{{"usage":{{"prompt_tokens":5}},"a":"usage","b":[{others}]}}"#);
        assert_eq!(usage_of(body.as_bytes()), tokens(5, 0, 0), "{body}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    let text = prop::sample::select(vec!["", "usage", "\"usage\":{\"prompt_tokens\":7}}", "\\", "}"]);
    let leaf = prop_oneof![Just(Value::Null), any::<i32>().prop_map(Into::into), text.prop_map(Into::into)];
    let key = || prop::sample::select(vec!["usage", "a", "\"usage", "prompt_tokens", "\\\"usage"]);
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::vec((key(), inner), 0..4).prop_map(|members| {
                Value::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn usage_from_the_end_is_usage_from_the_start(value in value(), other in value()) {
        for value in [value.clone(), json!({"usage": value, "zz": other})] {
            for text in [value.to_string(), format!("{value:#}")] {
                let expected = read_top(text.as_bytes()).ok().flatten();
                prop_assert_eq!(usage_of(text.as_bytes()), expected, "{}", text);
            }
        }
    }
}
