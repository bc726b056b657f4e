//! A chat model: woken from zero, streamed, explained, and drained without a stream being cut.

use serde_json::json;

use crate::{process::until, rig::Gateway};

const CHAT: &str = "/v1/chat/completions";

fn parrot(engine: &str) -> String {
    format!(
        r#"  - name: parrot
    fleet: {{process: {{command: [tidegate, model-server, --chat-sim, parrot, --port, "{{port}}"{engine}]}}}}
    protocol: openai
    slo: {{ttft: {{p99: 2s}}, tpot: {{p95: 60ms}}}}
    deadline: {{betweenTokens: 1s}}
    scaling: {{min: 0, max: 2}}
"#
    )
}

fn ask(tokens: u32, stream: bool) -> String {
    let messages = [json!({"role": "user", "content": "the tide comes in"})];
    json!({"model": "parrot", "messages": messages, "max_tokens": tokens, "stream": stream}).to_string()
}

/// The text of a streamed answer, and whether it ended well.
fn heard(events: &str) -> (String, bool) {
    let chunks = events.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    let read = |chunk: &str| serde_json::from_str::<serde_json::Value>(chunk).ok();
    let text = chunks
        .filter_map(read)
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned));
    (text.collect(), events.ends_with("data: [DONE]\n\n"))
}

#[tokio::test]
async fn a_chat_model_wakes_for_its_first_call_and_streams() {
    let gateway = Gateway::start(&[parrot(", --ttft, 20ms, --tpot, 2ms")]).await;
    let mut client = gateway.connect().await;
    let first = client.post(CHAT, ask(6, true)).await;
    assert_eq!(first.status, 200, "{}", first.text());
    assert!(!first.header("x-tidegate-cold-start").is_empty(), "{:?}", first.headers);
    assert_eq!(heard(&first.text()), ("the tide comes in the tide".to_owned(), true));
    assert!(!first.text().contains("usage\":{"), "nobody asked for it: {}", first.text());

    let whole = client.post(CHAT, ask(3, false)).await.json();
    assert_eq!(whole["choices"][0]["message"]["content"], "the tide comes");
    assert_eq!(whole["usage"]["completion_tokens"], 3);

    let metrics = gateway.metrics().await;
    let of = |name: &str, label: &str| metrics.sum(name, &["model=\"parrot\"", label]);
    assert_eq!(of("tidegate_tokens_total", "direction=\"output\""), 9.0);
    assert_eq!(metrics.sum("tidegate_ttft_seconds_count", &["model=\"parrot\""]), 1.0);
    let why = gateway.admin("/api/models/parrot/why").await.json();
    assert!(why["text"].as_str().unwrap().contains("streams"), "{why:#}");
    let model = gateway.admin("/api/models/parrot").await.json();
    assert_eq!((&model["in_flight"], &model["queue"]["requests"]), (&json!(0), &json!(0)), "{model:#}");
}

#[tokio::test]
async fn an_engine_that_breaks_off_or_falls_silent_is_told_of_in_the_stream() {
    for (fault, code) in [("reset=1", "upstream_reset"), ("stall=1", "deadline_exceeded")] {
        let engine = format!(", --ttft, 5ms, --tpot, 2ms, --fail, {fault}");
        let gateway = Gateway::start(&[parrot(&engine)]).await;
        let reply = gateway.connect().await.post(CHAT, ask(40, true)).await;
        let text = reply.text();
        // Where it breaks is by chance: before the first piece the status tells.
        assert!(text.contains(&format!("\"code\":\"{code}\"")), "{fault}: {} {text}", reply.status);
        until("its place is free", async || {
            let model = gateway.admin("/api/models/parrot").await.json();
            (model["in_flight"] == 0).then_some(())
        })
        .await;
    }
}
