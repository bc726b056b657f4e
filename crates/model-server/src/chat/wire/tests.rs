use super::*;

fn call(surface: Surface, include_usage: bool) -> Call {
    Call { surface, number: 1, created: 7, model: "si\"m".to_owned(), include_usage }
}

const USAGE: Usage = Usage { prompt: 9, cached: 4, completion: 2 };

/// Every event of a stream, in its order.
fn stream(call: Call, answer: &Answer) -> String {
    let mut script = Script::new(call);
    let mut events = script.early();
    events.extend(script.opening());
    events.extend((0..answer.tokens()).map(|token| script.token(answer, token)));
    events.extend(script.closing(answer, USAGE));
    events.into_iter().map(|event| String::from_utf8(event.into()).unwrap()).collect()
}

fn answer(asked: &str, finish: Finish) -> Answer {
    Answer::new(asked, 2, finish, &[])
}

/// The data of each event, as JSON.
fn data(text: &str) -> Vec<Value> {
    let line = |event: &str| event.lines().find_map(|line| line.strip_prefix("data: ").map(str::to_owned));
    text.split_terminator("\n\n").map(|event| serde_json::from_str(&line(event).unwrap()).unwrap()).collect()
}

#[test]
fn a_chat_that_is_cut_says_so_with_its_last_token() {
    let text = stream(call(Surface::Chat, true), &answer("a \"b\"", Finish::Length));
    let head = r#"data: {"id":"chatcmpl-sim0000000000000001","object":"chat.completion.chunk","created":7,"model":"si\"m","choices":"#;
    let expected = [
        r#"[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}"#,
        r#"[{"index":0,"delta":{"content":"a"},"logprobs":null,"finish_reason":null}]}"#,
        r#"[{"index":0,"delta":{"content":" \"b\""},"logprobs":null,"finish_reason":"length","stop_reason":null}]}"#,
        r#"[],"usage":{"completion_tokens":2,"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":4},"total_tokens":11}}"#,
    ];
    let expected: String = expected.iter().map(|rest| format!("{head}{rest}\n\n")).collect();
    assert_eq!(text, expected);
}

#[test]
fn a_chat_that_ends_by_itself_says_so_without_text() {
    let events = data(&stream(call(Surface::Chat, false), &answer("a b", Finish::Stop)));
    assert_eq!(events.len(), 4);
    let last = &events[3]["choices"][0];
    assert_eq!((&last["delta"]["content"], &last["finish_reason"]), (&json!(""), &json!("stop")));
}

#[test]
fn a_completion_has_text_in_place_of_a_message() {
    let events = data(&stream(call(Surface::Completion, false), &answer("a b", Finish::Length)));
    let texts: Vec<_> = events.iter().map(|event| &event["choices"][0]["text"]).collect();
    assert_eq!(texts, [&json!("a"), &json!(" b")]);
    assert_eq!(events[0]["object"], "text_completion");
    assert_eq!(events[1]["choices"][0]["finish_reason"], "length");
    let whole = call(Surface::Completion, false).whole(&answer("a b", Finish::Length), USAGE);
    assert_eq!((&whole["choices"][0]["text"], &whole["usage"]["total_tokens"]), (&json!("a b"), &json!(11)));
}

#[test]
fn a_whole_chat_has_its_message_and_usage() {
    let whole = call(Surface::Chat, false).whole(&answer("a b", Finish::Stop), USAGE);
    assert_eq!(whole["choices"][0]["message"], json!({"role": "assistant", "content": "a b"}));
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    assert_eq!(whole["usage"]["prompt_tokens_details"]["cached_tokens"], 4);
}

#[test]
fn the_events_of_a_response_are_numbered_and_build_up_what_it_ends_as() {
    let text = stream(call(Surface::Responses, false), &answer("a b", Finish::Stop));
    let events = data(&text);
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number, "{event}");
        assert!(text.contains(&format!("event: {}\n", event["type"].as_str().unwrap())), "{event}");
    }
    let said: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    let whole = call(Surface::Responses, false).whole(&answer("a b", Finish::Stop), USAGE);
    assert_eq!(events[9]["response"], whole);
    assert_eq!(whole["output"][0]["content"][0]["text"], said);
    assert_eq!(whole["usage"]["input_tokens_details"]["cached_tokens"], 4);
}

#[test]
fn a_response_that_is_cut_is_incomplete() {
    let events = data(&stream(call(Surface::Responses, false), &answer("a b", Finish::Length)));
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.incomplete");
    assert_eq!(last["response"]["incomplete_details"]["reason"], "max_output_tokens");
}
