use bytes::Bytes;
use pipeline::request::Class;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::Error;

fn chat(body: &str) -> Result<Peek, Error> {
    peek(body.as_bytes(), Endpoint::ChatCompletions)
}

/// A chat request with these members.
fn members(members: &str) -> Result<Peek, Error> {
    chat(&format!(r#"{{"model":"m",{members}}}"#))
}

#[track_caller]
fn assert_refused(result: Result<Peek, Error>, sentence: &str) {
    assert_eq!(result.unwrap_err().to_string(), sentence);
}

#[test]
fn a_body_is_one_whole_json_object() {
    let cases: [(&[u8], &str); 8] = [
        (b"", "body is not valid JSON: unexpected end at line 1 column 1"),
        (b"[]", "body must be a JSON object"),
        (br#"{"model":"m""#, "body is not valid JSON: unexpected end at line 1 column 13"),
        (br#"{"model":"m"} {}"#, "body is not valid JSON: trailing characters at line 1 column 15"),
        (b"\xef\xbb\xbf{}", "body is not valid JSON: a byte order mark at line 1 column 1"),
        (b"{\"model\":\"\xff\"}", "body is not valid JSON: invalid UTF-8 at line 1 column 11"),
        (br#"{"model":"m","x":[1,}"#, "body is not valid JSON: expected a value at line 1 column 21"),
        (
            br#"{"model":"m","x":"\ud800"}"#,
            "body is not valid JSON: a string with an invalid escape or a control character \
             at line 1 column 18",
        ),
    ];
    for (body, sentence) in cases {
        assert_refused(peek(body, Endpoint::ChatCompletions), sentence);
    }
    let nested = |levels| format!(r#""x":{}{}"#, "[".repeat(levels), "]".repeat(levels));
    assert!(members(&nested(99)).is_ok());
    assert_refused(members(&nested(100)), "JSON nesting exceeds 100 levels");
    let messages = |levels| format!(r#""messages":{}{}"#, "[".repeat(levels), "]".repeat(levels));
    assert_refused(members(&messages(100)), "JSON nesting exceeds 100 levels");
}

#[test]
fn members_are_refused_by_name() {
    assert_refused(chat("{}"), "missing field \"model\"");
    assert_refused(chat(r#"{"model":null}"#), "\"model\" must be a string");
    assert_refused(chat(r#"{"model":""}"#), "\"model\" is empty");
    let cases = [
        (r#""model":"n""#, "duplicate field \"model\""),
        (r#""mod\u0065l":"n""#, "duplicate field \"model\""),
        (r#""stream":true,"stream":true"#, "duplicate field \"stream\""),
        (r#""stream":null,"stream":true"#, "duplicate field \"stream\""),
        (r#""messages":[],"messages":[]"#, "duplicate field \"messages\""),
        (r#""stream":1"#, "\"stream\" must be true or false"),
        (r#""stream_options":true"#, "\"stream_options\" must be an object"),
        (r#""stream_options":{"include_usage":1}"#, "\"include_usage\" must be true or false"),
        (r#""max_tokens":"7""#, "\"max_tokens\" must be a whole number"),
        (r#""max_tokens":1.5"#, "\"max_tokens\" must be a whole number"),
        (r#""max_completion_tokens":[]"#, "\"max_completion_tokens\" must be a whole number"),
        (r#""max_output_tokens":true"#, "\"max_output_tokens\" must be a whole number"),
        (r#""n":"2""#, "\"n\" must be a whole number"),
        (r#""user":7"#, "\"user\" must be a string"),
        (r#""service_tier":7"#, "\"service_tier\" must be a string"),
        (r#""priority":"high""#, "\"priority\" must be a whole number"),
    ];
    for (text, sentence) in cases {
        assert_refused(members(text), sentence);
    }
}

#[test]
fn everything_of_a_request_is_found() {
    let peek = members(
        r#""messages": [1, 2] ,"stream":true,"max_tokens":9,"n":3,"user":"u","prompt_cache_key":"s",
        "service_tier":"flex","unknown":{"model":"x"},"temperature":1e-3"#,
    )
    .unwrap();
    assert_eq!(peek.model, "m");
    assert!(peek.stream);
    assert_eq!((peek.output_tokens_max, peek.choices), (Some(9), 3));
    assert_eq!((peek.user.as_deref(), peek.session.as_deref()), (Some("u"), Some("s")));
    assert_eq!(peek.class, Some(Class::Low));
    assert_eq!((peek.prompt_bytes, peek.prompt_tokens_estimate), (6, 2));
    assert!(peek.prefix.blocks().is_empty());
}

#[test]
fn null_is_as_good_as_absent() {
    let null = members(
        r#""stream":null,"stream_options":null,"max_tokens":null,"n":null,"user":null,"service_tier":null,
        "priority":null"#,
    );
    let absent = members(r#""x":1"#).unwrap();
    assert_eq!(null.unwrap(), absent);
    assert_eq!((absent.stream, absent.choices, absent.output_tokens_max), (false, 1, None));
}

#[test]
fn the_newer_token_limit_goes_before_the_older() {
    let limit = |text| members(text).unwrap().output_tokens_max;
    assert_eq!(limit(r#""max_tokens":1,"max_completion_tokens":2"#), Some(2));
    assert_eq!(limit(r#""max_tokens":1,"max_completion_tokens":null"#), Some(1));
    assert_eq!(limit(r#""max_output_tokens":3.0"#), Some(3));
    assert_eq!(limit(r#""max_tokens":5000000000"#), Some(u32::MAX));
    assert_eq!(limit(r#""max_tokens":-1"#), None);
}

#[test]
fn a_name_is_cut_at_256_bytes() {
    let long = "é".repeat(200);
    let peek = members(&format!(r#""safety_identifier":"x{long}","user":"""#)).unwrap();
    assert_eq!(peek.user.unwrap(), format!("x{}", "é".repeat(127)));
}

#[test]
fn priority_goes_before_the_service_tier() {
    let class = |text| members(text).unwrap().class;
    assert_eq!(class(r#""service_tier":"priority""#), Some(Class::High));
    assert_eq!(class(r#""service_tier":"auto""#), None);
    assert_eq!(class(r#""priority":-3"#), Some(Class::High));
    assert_eq!(class(r#""priority":3,"service_tier":"priority""#), Some(Class::Low));
    assert_eq!(class(r#""priority":0,"service_tier":"flex""#), Some(Class::Low));
}

#[test]
fn each_endpoint_has_its_prompt() {
    let body = br#"{"model":"m","messages":[1],"prompt":"23","input":"456","documents":["78"]}"#;
    let bytes = |endpoint| peek(body, endpoint).unwrap().prompt_bytes;
    assert_eq!(bytes(Endpoint::ChatCompletions), 3);
    assert_eq!(bytes(Endpoint::Completions), 4);
    assert_eq!(bytes(Endpoint::Embeddings), 5);
    assert_eq!(bytes(Endpoint::Responses), 5);
    assert_eq!(bytes(Endpoint::Rerank), 6);
}

#[test]
fn an_attached_file_counts_as_4_kib() {
    let tokens = |text: &str| {
        let content = json!([{"role": "user", "content": [{"image_url": {"url": text}}]}]);
        let peek = members(&format!(r#""messages":{content}"#)).unwrap();
        (peek.prompt_tokens_estimate, peek.prompt_bytes)
    };
    let (file, bytes) = tokens(&format!("data:image/png;base64,{}", "A".repeat(1 << 20)));
    assert!((1024..1060).contains(&file) && bytes > 1 << 20, "{file}");
    assert_eq!(tokens(&"A".repeat(1 << 20)).0, file);
    let (text, _) = tokens(&"some text ".repeat(1000));
    assert!((2500..2530).contains(&text), "{text}");
}

fn chain(endpoint: Endpoint, messages: &[Value]) -> Vec<u64> {
    let body = json!({"model": "m", endpoint.prompt(): messages}).to_string();
    peek(body.as_bytes(), endpoint).unwrap().prefix.blocks().to_vec()
}

#[test]
fn a_chain_has_a_hash_for_each_whole_block() {
    let blocks = |bytes: usize| {
        let body = format!(r#"{{"model":"m","prompt":"{}"}}"#, "x".repeat(bytes));
        peek(body.as_bytes(), Endpoint::Completions).unwrap().prefix.blocks().to_vec()
    };
    // The opening quote is hashed, the closing one is not.
    assert_eq!(blocks(BLOCK_BYTES - 2).len(), 0);
    assert_eq!(blocks(BLOCK_BYTES - 1).len(), 1);
    assert_eq!(blocks(3 * BLOCK_BYTES).len(), 3);
    assert_eq!(blocks(1 << 20).len(), BLOCKS_MAX);
    // Equal blocks at different places have different hashes.
    let mut distinct = blocks(1 << 20);
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), BLOCKS_MAX);
}

#[test]
fn endpoints_share_no_chain() {
    let messages = [json!("x".repeat(300))];
    assert_ne!(chain(Endpoint::Embeddings, &messages), chain(Endpoint::Responses, &messages));
}

#[test]
fn a_block_that_differs_changes_all_that_follow() {
    let text = |at: usize| {
        let mut text = vec![b'x'; 1024];
        text[at] = b'y';
        chain(Endpoint::ChatCompletions, &[json!(String::from_utf8(text).unwrap())])
    };
    let (early, late) = (text(300), text(700));
    assert_eq!(early[..1], late[..1]);
    assert!(early[1..].iter().zip(&late[1..]).all(|(early, late)| early != late));
}

#[test]
fn usage_is_asked_for_where_it_would_be_missing() {
    let written = |text: &str| {
        let body = format!(r#" {{ "model":"m",{text}}}"#);
        let peek = chat(&body).unwrap();
        let pieces = with_usage(&peek, Bytes::from(body));
        String::from_utf8(pieces.concat()).unwrap()
    };
    let cases = [
        (r#""stream":true"#, r#" {"stream_options":{"include_usage":true}, "model":"m","stream":true}"#),
        (
            r#""stream":true,"stream_options": null "#,
            r#" { "model":"m","stream":true,"stream_options": {"include_usage":true} }"#,
        ),
        (
            r#""stream":true,"stream_options":{ }"#,
            r#" { "model":"m","stream":true,"stream_options":{"include_usage":true }}"#,
        ),
        (
            r#""stream":true,"stream_options":{"a":1}"#,
            r#" { "model":"m","stream":true,"stream_options":{"include_usage":true,"a":1}}"#,
        ),
        (
            r#""stream_options":{"include_usage": false},"stream":true"#,
            r#" { "model":"m","stream_options":{"include_usage": true},"stream":true}"#,
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(written(text), expected);
    }
    for unchanged in [r#""stream":false"#, r#""stream":true,"stream_options":{"include_usage":true}"#] {
        assert_eq!(written(unchanged), format!(r#" {{ "model":"m",{unchanged}}}"#));
    }
}

#[test]
fn usage_is_asked_for_only_where_it_can_be() {
    let body = br#"{"model":"m","stream":true}"#;
    let usage = |endpoint| peek(body, endpoint).unwrap().usage;
    assert!(matches!(usage(Endpoint::Completions), IncludeUsage::Missing(_)));
    assert_eq!(usage(Endpoint::Responses), IncludeUsage::Always);
    assert_eq!(chat(r#"{"model":"m"}"#).unwrap().usage, IncludeUsage::Always);
    let asked = members(r#""stream":true,"stream_options":{"include_usage":true}"#).unwrap();
    assert_eq!(asked.usage, IncludeUsage::Asked);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        ".{0,40}".prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map(".{0,8}", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn options() -> impl Strategy<Value = Option<Value>> {
    let include = prop::option::of(prop::sample::select(vec![json!(true), json!(false), Value::Null]));
    let object = (include, prop::option::of(value())).prop_map(|(include, other)| {
        let members = [("include_usage", include), ("zz", other)];
        let members = members.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Value::Object(members.collect())
    });
    prop_oneof![Just(None), Just(Some(Value::Null)), object.prop_map(Some)]
}

/// Pieces of requests, mostly not a request together.
fn nonsense() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        &b"{"[..],
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"",
        b"\"model\"",
        b"\"m\"",
        b"\"stream_options\"",
        b"\"include_usage\"",
        b"\"messages\"",
        b"\"max_tokens\"",
        b"true",
        b"null",
        b"-1e9",
        b"\\",
        b"\xc3",
        b"\xa9",
        b" ",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn nothing_but_the_usage_is_added(
        options in options(),
        messages in prop::collection::vec(value(), 0..4),
        other in value(),
        pretty in any::<bool>(),
    ) {
        let mut body = json!({"model": "m", "stream": true, "messages": messages, "other": other});
        if let Some(options) = options {
            body["stream_options"] = options;
        }
        let text = if pretty { format!("{body:#}") } else { body.to_string() };
        let peek = chat(&text).unwrap();
        let written: Value = serde_json::from_slice(&with_usage(&peek, Bytes::from(text)).concat()).unwrap();
        if !body["stream_options"].is_object() {
            body["stream_options"] = json!({});
        }
        body["stream_options"]["include_usage"] = true.into();
        prop_assert_eq!(written, body);
    }

    #[test]
    fn a_message_more_keeps_the_chain_of_those_before(
        lengths in prop::collection::vec(0usize..700, 1..6),
    ) {
        let messages: Vec<Value> =
            lengths.iter().map(|length| json!({"role": "user", "content": "x".repeat(*length)})).collect();
        let whole = chain(Endpoint::ChatCompletions, &messages);
        let before = chain(Endpoint::ChatCompletions, &messages[..messages.len() - 1]);
        prop_assert!(whole.starts_with(&before));
    }

    #[test]
    fn a_request_is_accepted_only_if_serde_can_read_it(body in nonsense()) {
        for endpoint in [Endpoint::ChatCompletions, Endpoint::Completions, Endpoint::Embeddings] {
            if let Ok(peek) = peek(&body, endpoint) {
                let read: Value = serde_json::from_slice(&body).unwrap();
                prop_assert_eq!(read["model"].as_str(), Some(&*peek.model));
            }
        }
    }

    #[test]
    fn every_request_is_read_or_refused_wherever_it_is_cut(
        messages in prop::collection::vec(value(), 0..3),
        cut in any::<prop::sample::Index>(),
    ) {
        let body = json!({"model": "m", "stream": true, "messages": messages}).to_string();
        let text = body.as_bytes();
        prop_assert!(peek(text, Endpoint::ChatCompletions).is_ok());
        prop_assert!(peek(&text[..cut.index(text.len())], Endpoint::ChatCompletions).is_err());
    }
}
