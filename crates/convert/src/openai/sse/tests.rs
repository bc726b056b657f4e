use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::openai::error_event;

/// What a stream told in all, and what went on.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    forwarded: String,
    content_frames: u32,
    first_contents: u32,
    usage: Option<Usage>,
    finished: u32,
    done: bool,
    broken: Option<Broken>,
}

impl Seen {
    /// What the engine said was wrong.
    fn error(self) -> Option<ErrorText> {
        match self.broken {
            Some(Broken::Failed(error)) => Some(*error),
            _ => None,
        }
    }

    fn add(&mut self, facts: Facts) {
        self.content_frames += facts.content_frames;
        self.first_contents += u32::from(facts.first_content);
        self.usage = facts.usage.or(self.usage);
        self.finished += facts.finished;
        self.done |= facts.done;
        self.broken = facts.broken;
    }
}

fn watch<'c>(dialect: Dialect, usage: UsageFrame, chunks: impl IntoIterator<Item = &'c [u8]>) -> Seen {
    let mut scanner = Scanner::new(dialect, usage);
    let mut seen = Seen::default();
    let mut forwarded = Vec::new();
    for chunk in chunks {
        let facts = scanner.push(Bytes::copy_from_slice(chunk), |part| forwarded.extend(part));
        seen.add(facts);
    }
    seen.add(scanner.finish(|part| forwarded.extend(part)));
    seen.forwarded = String::from_utf8(forwarded).unwrap();
    seen
}

fn strip(text: &str) -> Seen {
    watch(Dialect::Completions, UsageFrame::Strip, [text.as_bytes()])
}

fn responses(text: &str) -> Seen {
    watch(Dialect::Responses, UsageFrame::Strip, [text.as_bytes()])
}

const ROLE: &str = r#"data: {"id":"1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}"#;
const WORD: &str = r#"data: {"id":"1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" \"usage\": é"},"logprobs":null,"finish_reason":null}],"usage":null}"#;
const LAST: &str =
    r#"data: {"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"stop","stop_reason":null}]}"#;
const USAGE: &str = r#"data: {"id":"1","choices":[],"usage":{"prompt_tokens":9,"total_tokens":12,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8}}}"#;

fn stream(line_end: &str) -> String {
    let blank = line_end.repeat(2);
    [": hello", ROLE, WORD, WORD, LAST, USAGE, "data: [DONE]"].map(|frame| format!("{frame}{blank}")).concat()
}

#[test]
fn a_chat_tells_everything_and_loses_its_usage_frame() {
    for line_end in ["\n", "\r\n"] {
        let text = stream(line_end);
        let expected = Seen {
            forwarded: text.replace(&format!("{USAGE}{line_end}{line_end}"), ""),
            content_frames: 2,
            first_contents: 1,
            usage: Some(Usage { prompt_tokens: 9, completion_tokens: 3, cached_tokens: 8 }),
            finished: 1,
            done: true,
            broken: None,
        };
        assert_eq!(strip(&text), expected);
        let kept = watch(Dialect::Completions, UsageFrame::Keep, [text.as_bytes()]);
        assert_eq!(kept, Seen { forwarded: text, ..expected });
    }
}

#[test]
fn it_is_the_same_wherever_the_stream_is_split() {
    for text in [stream("\n"), stream("\r\n")] {
        let whole = strip(&text);
        for at in 0..text.len() {
            let (before, after) = text.as_bytes().split_at(at);
            assert_eq!(watch(Dialect::Completions, UsageFrame::Strip, [before, after]), whole, "{at}");
        }
        let bytes = text.as_bytes().chunks(1);
        assert_eq!(watch(Dialect::Completions, UsageFrame::Strip, bytes), whole);
    }
}

#[test]
fn whole_frames_go_on_without_a_copy() {
    let chunk = Bytes::from(format!("{ROLE}\n\n{WORD}\n\n"));
    let mut parts = Vec::new();
    let mut scanner = Scanner::new(Dialect::Completions, UsageFrame::Strip);
    let facts = scanner.push(chunk.clone(), |part| parts.push(part));
    assert_eq!((facts.content_frames, facts.first_content), (1, true));
    assert_eq!(parts.len(), 1);
    assert_eq!((parts[0].as_ptr(), parts[0].len()), (chunk.as_ptr(), chunk.len()));
}

#[test]
fn a_frame_that_has_not_ended_is_held_back() {
    let mut scanner = Scanner::new(Dialect::Completions, UsageFrame::Strip);
    let mut parts = Vec::new();
    scanner.push(Bytes::from(format!("{WORD}\n\ndata: {{\"choi")), |part| parts.push(part));
    assert_eq!(parts, [format!("{WORD}\n\n")]);
    let facts = scanner.finish(|_| panic!("nothing is left that may go on"));
    assert_eq!(facts.broken, Some(Broken::Cut));
}

#[test]
fn what_is_content_is_told_from_what_is_not() {
    let delta =
        |delta: &str| format!(r#"{{"choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}"#);
    let text = |text: &str| format!(r#"{{"choices":[{{"index":0,"text":{text},"finish_reason":null}}]}}"#);
    let cases = [
        (delta(r#"{"role":"assistant"}"#), false),
        (delta(r#"{"role":"assistant","content":"","reasoning_content":null,"tool_calls":[]}"#), false),
        (delta("{}"), false),
        (delta(r#"{"content":null}"#), false),
        (delta(r#"{"content":"x"}"#), true),
        (delta(r#"{"content": "x"}"#), true),
        (delta(r#"{"content":"usage"}"#), true),
        (delta(r#"{"content":"\""}"#), true),
        (delta(r#"{"content":[{"type":"text","text":"x"}]}"#), true),
        (delta(r#"{"content":"","reasoning_content":"x"}"#), true),
        (delta(r#"{"reasoning":"x"}"#), true),
        (delta(r#"{"tool_calls":[{"index":0,"function":{"name":"f","arguments":""}}]}"#), true),
        (delta(r#"{"function_call":{"arguments":"{"}}"#), true),
        (r#"{"choices":[{"logprobs":{"content":[{"token":"x"}]},"delta":{"content":"x"}}]}"#.into(), true),
        (r#"{"choices":[{"logprobs":{"content":[{"token":"x"}]},"delta":{"content":""}}]}"#.into(), false),
        (text("\"x\""), true),
        (text("\"\""), false),
        (r#"{"choices":[],"note":{"delta":1}}"#.into(), false),
        (r#"{"choices":[{"delta":{"content":"#.into(), false),
    ];
    for (data, expected) in cases {
        let seen = strip(&format!("data: {data}\n\n"));
        assert_eq!(seen.content_frames, u32::from(expected), "{data}");
        assert!(seen.usage.is_none() && seen.finished == 0 && seen.broken.is_none(), "{seen:?}");
        assert_eq!(seen.forwarded, format!("data: {data}\n\n"));
    }
}

#[test]
fn usage_with_every_frame_is_read_and_kept() {
    let frame = r#"data: {"choices":[{"delta":{"content":"x"},"finish_reason":null}],"usage":{"prompt_tokens":5,"completion_tokens":1}}"#;
    let text = format!("{frame}\n\n{}\n\n", frame.replace(r#"_tokens":1"#, r#"_tokens": 2"#));
    let seen = strip(&text);
    assert_eq!(seen.usage, Some(Usage { prompt_tokens: 5, completion_tokens: 2, cached_tokens: 0 }));
    assert_eq!((seen.content_frames, seen.forwarded), (2, text));
}

#[test]
fn each_choice_ends_once() {
    let text = r#"data: {"choices":[{"text":"a","finish_reason":null},{"text":"b","finish_reason":"stop"},{"text":"","finish_reason":"length"}]}"#;
    let seen = strip(&format!("{text}\n\n"));
    assert_eq!((seen.content_frames, seen.finished), (1, 2));
}

#[test]
fn data_in_several_lines_is_one_text() {
    let text = "id: 7\ndata: {\"choices\":[{\"delta\":\ndata:{\"content\":\"x\"}}]}\nretry: 5\n\n";
    let seen = strip(text);
    assert_eq!((seen.content_frames, &*seen.forwarded), (1, text));
    let usage = USAGE.replacen(",\"usage\"", ",\ndata: \"usage\"", 1);
    let seen = strip(&format!("id: 8\n{usage}\n\n{text}"));
    assert_eq!(seen.usage.map(|usage| usage.prompt_tokens), Some(9));
    assert_eq!(seen.forwarded, text);
}

#[test]
fn errors_of_engines_are_read() {
    let error = |text: &str| strip(&format!("{text}\n\n")).error();
    let told = |message: &str, kind: Option<&str>, code: Option<&str>| {
        let [kind, code] = [kind, code].map(|text| text.map(str::to_owned));
        Some(ErrorText { message: message.into(), kind, param: None, code })
    };
    assert_eq!(
        error(r#"data: {"error":{"message":"no\nroom","type":"ServerError","param":null,"code":500}}"#),
        told("no room", Some("ServerError"), Some("500"))
    );
    assert_eq!(
        error(r#"data: {"object":"error","message":"no","type":"T","code":400}"#),
        told("no", Some("T"), Some("400"))
    );
    assert_eq!(error(r#"data: {"error":"no"}"#), told("no", None, None));
    assert_eq!(error(r#"error: {"code":500,"message":"no"}"#), told("no", None, Some("500")));
    assert_eq!(error("event: error\ndata: {}"), Some(ErrorText::default()));
    assert_eq!(error(r#"data: {"error":null,"choices":[]}"#), None);
    let long = error(&format!(r#"data: {{"error":"{}"}}"#, "é".repeat(1000))).unwrap();
    assert_eq!(long.message, "é".repeat(300));
}

#[test]
fn an_engine_s_error_does_not_go_on_and_nothing_does_after_it() {
    let error = "data: {\"error\":\"no\",\"choices\":[],\"usage\":{\"prompt_tokens\":5}}\n\n";
    let text = format!("{WORD}\n\n{error}{WORD}\n\ndata: [DONE]\n\n");
    for split in 0..text.len() {
        let (before, after) = text.as_bytes().split_at(split);
        let seen = watch(Dialect::Completions, UsageFrame::Keep, [before, after]);
        assert_eq!((seen.content_frames, seen.done), (1, false));
        assert_eq!(seen.usage.map(|usage| usage.prompt_tokens), Some(5));
        assert_eq!(seen.forwarded, format!("{WORD}\n\n"));
        assert_eq!(seen.error().unwrap().message, "no");
    }
}

#[test]
fn what_is_not_a_stream_of_events_is_not_given_on() {
    for text in ["{\"error\":1}", "<html>", "dat\n\n", "\n\nx", "HTTP", "\u{feff}data: 1\n\n"] {
        for split in 0..text.len() {
            let (before, after) = text.as_bytes().split_at(split);
            let seen = watch(Dialect::Completions, UsageFrame::Strip, [before, after]);
            assert_eq!(seen.broken, Some(Broken::NotEvents), "{text}");
            assert_eq!(seen.forwarded.trim(), "", "{text}");
        }
    }
}

#[test]
fn nothing_goes_on_after_a_frame_that_is_no_text() {
    let mut text = format!("{WORD}\n\n").into_bytes();
    text.extend(b"data: \xff\n\ndata: [DONE]\n\n");
    let seen = watch(Dialect::Completions, UsageFrame::Keep, [&text[..], b"data: [DONE]\n\n"]);
    assert_eq!(seen.broken, Some(Broken::NotText));
    assert_eq!((seen.content_frames, seen.done), (1, false));
    assert_eq!(seen.forwarded, format!("{WORD}\n\n"));
}

#[test]
fn a_frame_has_a_largest_size_however_it_comes() {
    let frame = |bytes: usize| format!("data: {}\n\n", "x".repeat(bytes - 8));
    for chunk in [FRAME_BYTES_MAX + 1, 1 << 14, 4097] {
        let watch =
            |text: &str| watch(Dialect::Completions, UsageFrame::Strip, text.as_bytes().chunks(chunk));
        let largest = frame(FRAME_BYTES_MAX);
        assert!(watch(&largest).forwarded == largest);
        let seen = watch(&frame(FRAME_BYTES_MAX + 1));
        assert_eq!((seen.broken, &*seen.forwarded), (Some(Broken::TooLarge), ""));
    }
    let mut scanner = Scanner::new(Dialect::Completions, UsageFrame::Strip);
    let endless = Bytes::from(vec![b':'; FRAME_BYTES_MAX]);
    assert_eq!(scanner.push(endless.clone(), drop).broken, None);
    assert_eq!(scanner.push(endless, drop).broken, Some(Broken::TooLarge));
}

#[test]
fn the_last_frame_may_lack_its_blank_line() {
    for text in ["data: [DONE]", "data: [DONE]\n", "data: [DONE]\r\n\r"] {
        let seen = strip(text);
        assert_eq!((seen.done, seen.broken, &*seen.forwarded), (true, None, "data: [DONE]\n\n"), "{text}");
    }
    assert_eq!(strip("").broken, None);
}

#[test]
fn a_response_tells_of_itself_by_its_events() {
    let text = concat!(
        "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"usage\":null}}\n\n",
        "event: response.output_text.delta\n",
        "data: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n",
        "event: response.output_text.delta\n",
        "data: {\"type\":\"response.output_text.delta\",\"delta\":\"\"}\n\n",
        "data: {\"type\":\"response.function_call_arguments.delta\",\"delta\":\"{\"}\n\n",
        "event: response.output_text.done\n",
        "data: {\"type\":\"response.output_text.done\",\"text\":\"x\"}\n\n",
        "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":",
        "{\"input_tokens\":9,\"input_tokens_details\":{\"cached_tokens\":8},\"output_tokens\":3}}}\n\n",
    );
    let seen = responses(text);
    assert_eq!(seen.usage, Some(Usage { prompt_tokens: 9, completion_tokens: 3, cached_tokens: 8 }));
    assert_eq!((seen.content_frames, seen.done, seen.broken), (2, true, None));
    assert_eq!(seen.forwarded, text);
}

#[test]
fn a_response_that_fails_tells_why() {
    let failed = r#"data: {"type":"response.failed","response":{"id":"r","error":{"code":"server_error","message":"no"},"usage":null}}"#;
    let seen = responses(&format!("{failed}\n\n"));
    assert_eq!(seen.forwarded, "");
    let error = seen.error().unwrap();
    assert_eq!((&*error.message, error.code.as_deref()), ("no", Some("server_error")));
    let seen = responses("data: {\"type\":\"error\",\"code\":\"c\",\"message\":\"no\"}\n\n");
    assert_eq!(&*seen.error().unwrap().message, "no");
    let seen = responses("data: {\"error\":{\"message\":\"no\"}}\n\n");
    assert_eq!(&*seen.error().unwrap().message, "no");
    assert_eq!(responses("data: {\"type\":\"response.created\",\"error\":null}\n\n").broken, None);
}

#[test]
fn an_error_event_is_one_frame_that_says_it() {
    let word = |word: &str| Some(word.to_owned());
    let error = |message: &str| ErrorText {
        message: message.to_owned(),
        kind: word("server_error"),
        param: None,
        code: word("upstream_reset"),
    };
    let message = "a \"b\"\n\ndata: [DONE]\n\u{85}\u{2028}\u{0}.";
    for dialect in [Dialect::Completions, Dialect::Responses] {
        let event = error_event(dialect, &error(message));
        let text = std::str::from_utf8(&event).unwrap();
        assert!(text.ends_with("}\n\n") && text.matches("\n\n").count() == 1, "{text:?}");
        assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..0x7f).contains(&byte)), "{text:?}");
        let seen = watch(dialect, UsageFrame::Strip, [&event[..]]);
        assert_eq!(seen.error(), Some(error("a \"b\"  data: [DONE]    .")));
    }
    let event = error_event(Dialect::Completions, &error("m"));
    assert_eq!(
        event,
        "data: {\"error\":{\"message\":\"m\",\"type\":\"server_error\",\"param\":null,\"code\":\"upstream_reset\"}}\n\n"
    );
    let done = watch(Dialect::Completions, UsageFrame::Strip, [DONE]);
    assert!(done.done);
}

/// A chunk as some engine may write it, and what it tells: content, choices ended, usage.
fn chunk() -> impl Strategy<Value = (Value, bool, u32, Option<u64>)> {
    let text =
        prop::sample::select(vec!["", "x", "usage", "\"usage\":{", "finish_reason", "\"", "\\", "é\n"]);
    let keys = prop::sample::select(vec!["content", "reasoning_content", "refusal"]);
    let choice = (keys, text, any::<bool>(), any::<bool>()).prop_map(|(key, text, ends, plain)| {
        let reason = if ends { json!("stop") } else { Value::Null };
        let choice = if plain {
            json!({"index": 0, "text": text, "logprobs": null, "finish_reason": reason})
        } else {
            json!({"index": 0, "delta": {"role": "assistant", key: text}, "finish_reason": reason})
        };
        (choice, !text.is_empty(), u32::from(ends))
    });
    let usage = prop::option::of(prop::option::of(0u64..99));
    (prop::collection::vec(choice, 0..3), usage).prop_map(|(choices, usage)| {
        let content = choices.iter().any(|(_, content, _)| *content);
        let ended = choices.iter().map(|(_, _, ended)| ended).sum();
        let choices: Vec<Value> = choices.into_iter().map(|(choice, ..)| choice).collect();
        let mut chunk = json!({"id": "1", "object": "chat.completion.chunk", "choices": choices});
        if let Some(usage) = usage {
            chunk["usage"] = usage.map_or(Value::Null, |tokens| json!({"completion_tokens": tokens}));
        }
        (chunk, content, ended, usage.flatten())
    })
}

/// Pieces of streams, mostly not a stream together.
fn nonsense() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        &b"data:"[..],
        b"data: ",
        b"event: error",
        b":",
        b"\n",
        b"\r\n",
        b"\r",
        b"\n\n",
        b"{\"choices\":[",
        b"]}",
        b",\"usage\":{}",
        b"{\"delta\":{\"content\":\"",
        b"\"}}",
        b"\"",
        b"\\",
        b"[DONE]",
        b"\xc3",
        b"\xa9",
    ]);
    (any::<bool>(), prop::collection::vec(piece, 0..24)).prop_map(|(begin, pieces)| {
        let begin: &[u8] = if begin { b"data:" } else { b"" };
        [begin, &pieces.concat()].concat()
    })
}

proptest! {
    #[test]
    fn every_chunk_tells_what_is_in_it(
        (chunk, content, ended, tokens) in chunk(),
        style in 0..3,
    ) {
        let data = match style {
            0 => chunk.to_string(),
            1 => chunk.to_string().replace("\":", "\": "),
            _ => format!("{chunk:#}").replace('\n', "\ndata: "),
        };
        let seen = strip(&format!("data: {data}\n\n"));
        prop_assert_eq!(seen.content_frames, u32::from(content), "{}", data);
        prop_assert_eq!(seen.finished, ended);
        prop_assert_eq!(seen.usage.map(|usage| usage.completion_tokens), tokens);
        let stripped = tokens.is_some() && chunk["choices"].as_array().unwrap().is_empty();
        prop_assert_eq!(seen.forwarded.is_empty(), stripped);
    }

    #[test]
    fn any_bytes_in_any_chunks_tell_the_same(
        text in nonsense(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        responses in any::<bool>(),
    ) {
        let dialect = if responses { Dialect::Responses } else { Dialect::Completions };
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]);
        let whole = watch(dialect, UsageFrame::Strip, [&text[..]]);
        prop_assert_eq!(watch(dialect, UsageFrame::Strip, chunks), whole);
    }
}
