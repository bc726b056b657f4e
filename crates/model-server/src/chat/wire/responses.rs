//! The Responses interface: one message of one text, and the events that build it up.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Call, Usage, quoted};
use crate::chat::answer::{Answer, Finish};

/// Events, numbered as they are made.
#[derive(Debug)]
pub(in crate::chat) struct Events {
    call: Call,
    next: u64,
}

impl Call {
    fn item_id(&self) -> String {
        format!("msg-sim{:016x}", self.number)
    }

    /// The response at one moment of its life.
    fn response(&self, status: &str, output: Value, usage: Value, incomplete: Value) -> Value {
        json!({
            "id": self.id(),
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.model,
            "output": output,
            "usage": usage,
            "error": null,
            "incomplete_details": incomplete,
            "instructions": null,
            "metadata": {},
            "parallel_tool_calls": false,
            "tool_choice": "none",
            "tools": [],
            "temperature": null,
            "top_p": null,
        })
    }
}

/// The whole response.
pub(super) fn completed(call: &Call, answer: &Answer, usage: Usage) -> Value {
    let (status, incomplete) = ending(answer);
    let item = item(call, status, json!([part(&answer.text())]));
    call.response(status, json!([item]), usage_json(usage), incomplete)
}

/// The status of a response that is over, and what it lacks.
fn ending(answer: &Answer) -> (&'static str, Value) {
    match answer.finish() {
        Finish::Stop => ("completed", Value::Null),
        Finish::Length => ("incomplete", json!({ "reason": "max_output_tokens" })),
    }
}

fn usage_json(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt,
        "input_tokens_details": { "cached_tokens": usage.cached },
        "output_tokens": usage.completion,
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": usage.prompt + usage.completion,
    })
}

fn item(call: &Call, status: &str, content: Value) -> Value {
    json!({
        "type": "message", "id": call.item_id(), "status": status, "role": "assistant", "content": content,
    })
}

fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

impl Events {
    pub(super) fn new(call: Call) -> Self {
        Self { call, next: 0 }
    }

    pub(super) fn early(&mut self) -> Vec<Bytes> {
        let response = self.call.response("in_progress", json!([]), Value::Null, Value::Null);
        ["response.created", "response.in_progress"]
            .map(|kind| self.event(kind, &[("response", &response)]))
            .into()
    }

    pub(super) fn opening(&mut self) -> Vec<Bytes> {
        let item = item(&self.call, "in_progress", json!([]));
        vec![
            self.event("response.output_item.added", &[("output_index", &json!(0)), ("item", &item)]),
            self.text_event("response.content_part.added", &[("part", &part(""))]),
        ]
    }

    pub(super) fn delta(&mut self, text: &str) -> Bytes {
        let kind = "response.output_text.delta";
        let (number, item) = (self.number(), self.call.item_id());
        let text = quoted(text);
        format!(
            "event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{number},\"item_id\":\"{item}\",\
             \"output_index\":0,\"content_index\":0,\"delta\":{text},\"logprobs\":[]}}\n\n"
        )
        .into()
    }

    pub(super) fn closing(&mut self, answer: &Answer, usage: Usage) -> Vec<Bytes> {
        let text = answer.text();
        let (status, incomplete) = ending(answer);
        let item = item(&self.call, status, json!([part(&text)]));
        let response = self.call.response(status, json!([item]), usage_json(usage), incomplete);
        let kind = format!("response.{status}");
        vec![
            self.text_event("response.output_text.done", &[("text", &json!(text)), ("logprobs", &json!([]))]),
            self.text_event("response.content_part.done", &[("part", &part(&text))]),
            self.event("response.output_item.done", &[("output_index", &json!(0)), ("item", &item)]),
            self.event(&kind, &[("response", &response)]),
        ]
    }

    /// An event about the text of the message.
    fn text_event(&mut self, kind: &str, fields: &[(&str, &Value)]) -> Bytes {
        let (item, first) = (json!(self.call.item_id()), json!(0));
        let place = [("item_id", &item), ("output_index", &first), ("content_index", &first)];
        self.event(kind, &[&place, fields].concat())
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn event(&mut self, kind: &str, fields: &[(&str, &Value)]) -> Bytes {
        let (kind_json, number) = (json!(kind), json!(self.number()));
        let always = [("type", &kind_json), ("sequence_number", &number)];
        let data: BTreeMap<_, _> = always.iter().chain(fields).copied().collect();
        format!("event: {kind}\ndata: {}\n\n", json!(data)).into()
    }
}
