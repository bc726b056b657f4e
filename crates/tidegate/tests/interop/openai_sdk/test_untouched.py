"""What the SDK sends reaches the engine byte for byte, and the engine's answer the SDK: whatever it means, the gateway
need not know it. Only `stream_options` is put into a stream's body where the client asked for no usage."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import httpx2
import pytest
from openai import OpenAI

from scripted import COMPLETION, DONE, MODEL, Scripted, chunk, event, says, streams

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Of a “place”: \u00e9\u4e2d\U0001f30a \\ / \b",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string"}, "days": {"type": "integer", "maximum": 2**53 + 1}},
                "required": ["place"],
                "additionalProperties": False,
            },
            "strict": True,
        },
    }
]
CALLED = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "x"}'}}
OPTIONS = {
    "model": MODEL,
    "messages": [
        {"role": "system", "content": "line\nline\u2028 and \"quotes\""},
        {"role": "user", "content": [{"type": "text", "text": "what \"stream\": true, is {[ not"}]},
        {"role": "assistant", "tool_calls": [CALLED]},
        {"role": "tool", "tool_call_id": "call_1", "content": "\U0001f327"},
    ],
    "tools": TOOLS,
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    "temperature": 0.1,
    "seed": 2**53 + 1,
    "logit_bias": {"50256": -100},
    "stop": ["\n", "\u0000"],
    "extra_body": {"guided_json": {"b": 1.0, "a": 1e-7, "z": [None, [], {}]}, "min_p": 0.05, "top_k": -1},
}
TOOL_CALLS = [
    {"index": 0, "id": "call_2", "type": "function", "function": {"name": "weather", "arguments": ""}},
    {"index": 0, "function": {"arguments": '{"pl'}},
    {"index": 0, "function": {"arguments": 'ace": "\\u00e9"}'}},
]


BOTH = pytest.mark.parametrize("scripted_url", ["direct", "gateway"], indirect=True)


class Sent:
    """The bodies of a client's requests, as they are on the wire."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def __call__(self, request: httpx2.Request) -> None:
        self.bodies.append(request.read())


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def watched(scripted_url: str, sent: Sent) -> Iterator[OpenAI]:
    http = httpx2.Client(event_hooks={"request": [sent]})
    with OpenAI(base_url=scripted_url, api_key="none", max_retries=0, timeout=60, http_client=http) as client:
        yield client


@BOTH
def test_a_body_reaches_the_engine_as_it_was_sent(scripted: Scripted, watched: OpenAI, sent: Sent) -> None:
    scripted.answers = [says(200, COMPLETION)]
    watched.chat.completions.create(**OPTIONS)
    [call] = scripted.calls
    assert call.path == "/v1/chat/completions"
    assert call.headers["content-type"] == "application/json"
    assert call.body == sent.bodies[0]


@BOTH
def test_a_stream_whose_usage_is_wanted_is_asked_for_as_it_was(
    scripted: Scripted, watched: OpenAI, sent: Sent
) -> None:
    scripted.answers = [streams(event(chunk("hi")), DONE)]
    list(watched.chat.completions.create(**OPTIONS, stream=True, stream_options={"include_usage": True}))
    assert scripted.calls[0].body == sent.bodies[0]


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": False}}, {"stream_options": None}])
@BOTH
def test_a_stream_whose_usage_is_not_wanted_changes_in_its_options_only(
    scripted: Scripted, watched: OpenAI, sent: Sent, options: dict
) -> None:
    scripted.answers = [streams(event(chunk("hi")), DONE)]
    list(watched.chat.completions.create(**OPTIONS, stream=True, **options))
    before, after = (json.loads(body) for body in (sent.bodies[0], scripted.calls[0].body))
    before.pop("stream_options", None)
    after.pop("stream_options", None)
    assert after == before
    # Nothing else was written anew: what is left is what begins and what ends alike.
    own = sent.bodies[0]
    given = len(json.dumps(options["stream_options"], separators=(",", ":"))) if options else 0
    assert alike(own, scripted.calls[0].body) + alike(own[::-1], scripted.calls[0].body[::-1]) >= len(own) - given


def alike(a: bytes, b: bytes) -> int:
    """Bytes before the first difference."""
    return len(os.path.commonprefix([a, b]))


@BOTH
def test_a_whole_answer_is_handed_on_as_it_came(scripted: Scripted, watched: OpenAI) -> None:
    body = json.dumps(
        COMPLETION | {"choices": [], "reasoning": "\u00e9", "timings": {"per_token": 1e-07}}, indent=3
    ).encode()
    scripted.answers = [says(200, body)]
    answer = watched.chat.completions.with_raw_response.create(**OPTIONS)
    assert answer.content == body
    assert answer.headers["content-type"] == "application/json"


@BOTH
def test_a_stream_is_handed_on_as_it_came(scripted: Scripted, watched: OpenAI) -> None:
    """Comments, fields that no standard knows, several events in a piece, and an event in several pieces."""
    first = chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": None, "reasoning": "\u00e9"}}])
    calls = [chunk(choices=[{"index": 0, "delta": {"tool_calls": [call]}}], odd=[1e-7]) for call in TOOL_CALLS]
    text = event(chunk("caf\u00e9 \U0001f30a"))
    usage = chunk(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5})
    pieces = [
        b": a comment\n\n",
        event(first) + event(calls[0]),
        event(calls[1])[:20],
        event(calls[1])[20:],
        event(calls[2]),
        text[:-9],
        text[-9:],
        event(usage),
        DONE,
    ]
    scripted.answers = [streams(*pieces)]
    with watched.chat.completions.with_streaming_response.create(
        **OPTIONS, stream=True, stream_options={"include_usage": True}
    ) as answer:
        assert b"".join(answer.iter_bytes()) == b"".join(pieces)
    chunks = list(
        watched.chat.completions.create(**OPTIONS, stream=True, stream_options={"include_usage": True})
    )
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    arguments = [call.function.arguments for delta in deltas for call in delta.tool_calls or []]
    assert json.loads("".join(arguments)) == {"place": "\u00e9"}
    assert chunks[-1].usage.completion_tokens == 4


def test_only_the_usage_is_taken_out_of_a_stream_that_did_not_ask_for_it(
    scripted: Scripted, watched: OpenAI
) -> None:
    usage = event(chunk(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}))
    text = [event(chunk(word)) for word in ("a", "b", "c", "d")]
    together = b"".join(text)
    scripted.answers = [
        streams(*text, usage, DONE),
        streams(*text, usage + DONE),
        streams(together + usage, DONE),
        streams(together + usage[:30], usage[30:] + DONE),
    ]
    for _ in scripted.answers:
        with watched.chat.completions.with_streaming_response.create(**OPTIONS, stream=True) as answer:
            assert b"".join(answer.iter_bytes()) == together + DONE


@BOTH
def test_what_is_sent_to_other_routes_is_handed_on_too(scripted: Scripted, watched: OpenAI, sent: Sent) -> None:
    completion = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": MODEL, "choices": []}
    scripted.answers = [says(200, completion)]
    watched.completions.create(model=MODEL, prompt=["\u00e9", "b"], max_tokens=3, extra_body={"x": [1e-7]})
    [call] = scripted.calls
    assert call.path == "/v1/completions"
    assert call.body == sent.bodies[0]
