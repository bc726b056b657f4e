"""Which exception of the SDK a failure becomes, and how often the SDK tries before that."""

from __future__ import annotations

import pathlib
import threading
import time

import httpx2
import openai
import pytest
import requests
from openai import OpenAI

from engines import Llama
from harness import Gateway, serving, static, wait_for
from scripted import COMPLETION, DONE, MODEL, Scripted, chunk, event, hangs_up, says, streams

MESSAGES = [{"role": "user", "content": "Call a"}]
#: Attempts after the first that the SDK is allowed.
RETRIES = 1
TEXT = [event(chunk(word)) for word in ("one", " two", " three")]


class Attempts:
    """When a client sent its requests, and what each was answered."""

    def __init__(self) -> None:
        self.sent: list[float] = []
        self.answers: list[httpx2.Response] = []

    def client(self, base_url: str) -> OpenAI:
        hooks = {
            "request": [lambda _: self.sent.append(time.monotonic())],
            "response": [self.answers.append],
        }
        http = httpx2.Client(event_hooks=hooks)
        return OpenAI(base_url=base_url, api_key="none", max_retries=RETRIES, timeout=60, http_client=http)


@pytest.fixture
def attempts() -> Attempts:
    return Attempts()


@pytest.fixture
def patient(scripted_url: str, attempts: Attempts) -> OpenAI:
    """A client of the scripted engine's gateway that tries again where it is not told otherwise."""
    with attempts.client(scripted_url) as client:
        yield client


@pytest.fixture
def chatty(front: Gateway, llama: Llama, attempts: Attempts) -> OpenAI:
    """The same for llama.cpp."""
    with attempts.client(f"{front.url}/v1") as client:
        yield client


def check_reason(error: openai.APIStatusError, status: int, reason: str) -> None:
    assert error.status_code == status
    assert error.response.headers["x-tidegate-reason"] == reason
    assert error.code == reason
    assert error.request_id
    assert error.body["message"]


def test_an_unknown_model_is_not_found(chatty: OpenAI, attempts: Attempts) -> None:
    for call in (
        lambda: chatty.chat.completions.create(model="lama", messages=MESSAGES),
        lambda: chatty.chat.completions.create(model="lama", messages=MESSAGES, stream=True),
        lambda: chatty.completions.create(model="lama", prompt="x"),
        lambda: chatty.embeddings.create(model="lama", input="x"),
        lambda: chatty.responses.create(model="lama", input="x"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        check_reason(caught.value, 404, "model_not_found")
        assert '"lama"' in caught.value.message
    assert len(attempts.sent) == 5


def test_one_model_is_asked_for(chatty: OpenAI) -> None:
    model = chatty.models.retrieve("llama")
    assert (model.id, model.object) == ("llama", "model")
    with pytest.raises(openai.NotFoundError) as caught:
        chatty.models.retrieve("lama")
    check_reason(caught.value, 404, "model_not_found")
    assert '"lama"' in caught.value.message
    # The path is one with V1's, whose clients read `error` as a string.
    answer = requests.get(f"{str(chatty.base_url).rstrip('/')}/models/lama", timeout=5)
    assert (answer.status_code, type(answer.json()["error"])) == (404, str)


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"model": 7, "messages": []}', b'{"messages": []}', b'{"model": "llama", "messages": ['],
)
def test_a_body_that_is_no_request_is_a_bad_request(chatty: OpenAI, attempts: Attempts, body: bytes) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chatty.post("/chat/completions", cast_to=object, content=body)
    assert caught.value.code in ("bad_request", "bad_json")
    assert len(attempts.sent) == 1


def test_an_engine_s_own_refusal_reaches_the_client(
    scripted: Scripted, patient: OpenAI, attempts: Attempts
) -> None:
    refusal = {"error": {"message": "5000 tokens are too many", "type": "invalid", "param": "messages", "code": "long"}}
    scripted.answers = [says(400, refusal)]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            patient.chat.completions.create(model=MODEL, messages=MESSAGES, stream=stream)
        assert "5000 tokens are too many" in caught.value.message
    assert len(attempts.sent) == len(scripted.calls) == 2


def test_an_engine_s_own_code_reaches_the_client(scripted: Scripted, patient: OpenAI) -> None:
    """Frameworks look for it, to shorten a conversation and ask again."""
    refusal = {"message": "too long", "type": "invalid", "param": "messages", "code": "context_length_exceeded"}
    scripted.answers = [says(400, {"error": refusal})]
    with pytest.raises(openai.BadRequestError) as caught:
        patient.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


def test_an_engine_s_failure_is_not_shown_and_not_repeated(
    scripted: Scripted, patient: OpenAI, attempts: Attempts
) -> None:
    scripted.answers = [says(500, {"error": {"message": "Traceback in /srv/secret.py at 10.0.0.7"}})]
    with pytest.raises(openai.InternalServerError) as caught:
        patient.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert caught.value.status_code == 502
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert "secret" not in caught.value.response.text
    assert "10.0.0.7" not in caught.value.response.text
    assert len(attempts.sent) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_hangs_up_is_an_error_that_is_not_repeated(
    scripted: Scripted, patient: OpenAI, attempts: Attempts, stream: bool
) -> None:
    scripted.answers = [hangs_up]
    with pytest.raises(openai.InternalServerError) as caught:
        patient.chat.completions.create(model=MODEL, messages=MESSAGES, stream=stream)
    check_reason(caught.value, 502, "upstream_reset")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(attempts.sent) == 1


@pytest.mark.parametrize("end", ["reset", "whole"])
def test_a_stream_that_breaks_raises_after_what_came(
    scripted: Scripted, patient: OpenAI, attempts: Attempts, end: str
) -> None:
    """Also one that ends in good order, but without `[DONE]`."""
    scripted.answers = [streams(*TEXT, end=end)]
    words = []
    with pytest.raises(openai.APIError) as caught:
        for part in patient.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True):
            words.append(part.choices[0].delta.content)
    assert words == ["one", " two", " three"]
    # An event of the stream, not a broken connection.
    assert not isinstance(caught.value, openai.APIConnectionError)
    assert caught.value.code in ("upstream_reset", "upstream_bad_response")
    assert len(attempts.sent) == len(scripted.calls) == 1


#: What engines send in the midst of a stream, and whether the client is told of it in their words.
TOLD = {
    "failure": ({"message": "Traceback in /srv/secret.py", "type": "InternalServerError", "code": 500}, False),
    "nameless": ({"message": "Traceback in /srv/secret.py"}, False),
    "refusal": ({"message": "5000 secrets are too many", "type": "BadRequestError", "code": 400}, True),
}
DELTA = {
    "type": "response.output_text.delta",
    "item_id": "i",
    "output_index": 0,
    "content_index": 0,
    "sequence_number": 0,
    "logprobs": [],
    "delta": "one",
}


@pytest.mark.parametrize("fault", TOLD)
def test_an_engine_s_error_within_a_stream_is_told_as_its_status_would_be(
    scripted: Scripted, folder: pathlib.Path, attempts: Attempts, fault: str
) -> None:
    error, is_told = TOLD[fault]
    scripted.answers = [streams(*TEXT, event({"error": error}), DONE)]
    words = []
    with serving("told", [static(MODEL, scripted.port, "openai")], folder) as gateway:
        gateway.wait_until_ready(MODEL)
        with attempts.client(f"{gateway.url}/v1") as client, pytest.raises(openai.APIError) as caught:
            for part in client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True):
                words.append(part.choices[0].delta.content)
        reason = "refused" if is_told else "failed"
        assert gateway.metric("tidegate_stream_broken_total", model=MODEL, reason=reason) == 1
    assert words == ["one", " two", " three"]
    assert ("secret" in f"{caught.value.message} {caught.value.body}") == is_told
    assert caught.value.code == ("bad_request" if is_told else "upstream_bad_response")
    assert len(attempts.sent) == len(scripted.calls) == 1


@pytest.mark.parametrize("end", ["error", "failed", "reset"])
def test_a_response_that_breaks_raises_after_what_came(
    scripted: Scripted, patient: OpenAI, attempts: Attempts, end: str
) -> None:
    trace = {"code": "server_error", "message": "Traceback in /srv/secret.py"}
    last = {
        "error": [event({"type": "error", "sequence_number": 1, "param": None} | trace)],
        "failed": [event({"type": "response.failed", "sequence_number": 1, "response": {"id": "r", "error": trace}})],
        "reset": [],
    }[end]
    scripted.answers = [streams(event(DELTA), *last, end="reset" if end == "reset" else "whole")]
    deltas = []
    with pytest.raises(openai.APIError) as caught:
        for told in patient.responses.create(model=MODEL, input="Call a", stream=True):
            assert told.type == "response.output_text.delta"
            deltas.append(told.delta)
    assert deltas == ["one"]
    assert not isinstance(caught.value, openai.APIConnectionError)
    assert caught.value.code == ("upstream_reset" if end == "reset" else "upstream_bad_response")
    assert "secret" not in f"{caught.value.message} {caught.value.body}"
    assert len(attempts.sent) == len(scripted.calls) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_an_engine_that_is_busy_for_a_moment_costs_no_error(
    scripted: Scripted, patient: OpenAI, status: int
) -> None:
    busy = says(status, {"error": {"message": "busy", "type": "overloaded"}}, retry_after="0")
    scripted.answers = [busy, says(200, COMPLETION)]
    answer = patient.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert answer.choices[0].message.content == "hi"
    assert len(scripted.calls) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_an_engine_that_stays_busy_is_asked_no_more_often_than_it_wants(
    scripted: Scripted, patient: OpenAI, attempts: Attempts, status: int
) -> None:
    """The client is told when to come back, and comes back then."""
    scripted.answers = [says(status, {"error": {"message": "busy"}}, retry_after="1")]
    with pytest.raises((openai.RateLimitError, openai.InternalServerError)) as caught:
        patient.chat.completions.create(
            model=MODEL, messages=MESSAGES, extra_headers={"x-request-timeout-ms": "2000"}
        )
    assert caught.value.status_code in (429, 503, 504)
    check_waits(attempts.sent, attempts.answers)
    # Two seconds an attempt, and never two calls within one of them.
    assert len(scripted.calls) <= 3 * len(attempts.sent)


def check_waits(sent: list[float], answers: list[httpx2.Response]) -> None:
    """Each answer but the last named a time, and the next attempt came no sooner."""
    for answer, before, after in zip(answers, sent, sent[1:]):
        assert after - before >= float(answer.headers["retry-after-ms"]) / 1e3


def test_a_full_queue_is_a_rate_limit_and_tells_when_to_come_back(
    scripted: Scripted, folder: pathlib.Path, attempts: Attempts
) -> None:
    release = threading.Event()

    def waits(handler: object) -> None:
        release.wait(30)
        says(200, COMPLETION)(handler)

    scripted.answers = [waits]
    model = static(MODEL, scripted.port, "openai") | {"concurrency": 1, "queue": {"maxRequests": 1}}
    with serving("full", [model], folder) as gateway, attempts.client(f"{gateway.url}/v1") as client:
        gateway.wait_until_ready(MODEL)

        def call() -> None:
            client.with_options(max_retries=0).chat.completions.create(model=MODEL, messages=MESSAGES)

        callers = [threading.Thread(target=call) for _ in range(2)]
        try:
            callers[0].start()
            wait_for("the first call to reach the engine", lambda: len(scripted.calls) == 1)
            callers[1].start()
            wait_for("the second to wait", lambda: gateway.metric("tidegate_queue_requests", model=MODEL) == 1)
            attempts.sent.clear()
            with pytest.raises(openai.RateLimitError) as caught:
                client.chat.completions.create(model=MODEL, messages=MESSAGES)
        finally:
            release.set()
            for caller in callers:
                if caller.ident:
                    caller.join(30)
    check_reason(caught.value, 429, "queue_full")
    assert len(attempts.sent) == 1 + RETRIES
    refused = [answer for answer in attempts.answers if answer.status_code == 429]
    assert len(refused) == 1 + RETRIES
    assert all(0 < int(answer.headers["retry-after-ms"]) <= 120_000 for answer in refused)
    check_waits(attempts.sent, refused)


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_that_passes_is_a_time_out_and_is_not_repeated(
    scripted: Scripted, patient: OpenAI, attempts: Attempts, stream: bool
) -> None:
    release = threading.Event()
    scripted.answers = [lambda _: release.wait(30)]
    started = time.monotonic()
    try:
        with pytest.raises(openai.APIStatusError) as caught:
            patient.chat.completions.create(
                model=MODEL, messages=MESSAGES, stream=stream, extra_headers={"x-request-timeout-ms": "300"}
            )
    finally:
        release.set()
    assert 0.3 <= time.monotonic() - started < 5
    check_reason(caught.value, 504, "deadline_exceeded")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(attempts.sent) == 1


def test_a_deadline_that_passes_within_a_stream_raises_and_stops_the_engine(
    chatty: OpenAI, llama: Llama, attempts: Attempts
) -> None:
    stream = chatty.chat.completions.create(
        model="llama",
        messages=MESSAGES,
        max_tokens=12_000,
        stream=True,
        extra_headers={"x-request-timeout-ms": "1000"},
    )
    text = ""
    with pytest.raises(openai.APIError) as caught:
        for part in stream:
            text += "".join(choice.delta.content or "" for choice in part.choices)
    llama.check(0, text)
    assert text
    assert caught.value.code == "deadline_exceeded"
    assert len(attempts.sent) == 1
    wait_for("the engine to stop", lambda: llama.in_work() == 0, 4)


def test_a_malformed_deadline_is_a_bad_request(chatty: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chatty.chat.completions.create(
            model="llama", messages=MESSAGES, extra_headers={"x-request-timeout-ms": "soon"}
        )
    check_reason(caught.value, 400, "bad_deadline")


def test_the_request_s_id_is_the_sdk_s(chatty: OpenAI) -> None:
    answer = chatty.chat.completions.create(model="llama", messages=MESSAGES, max_tokens=1)
    assert answer._request_id
    answer = chatty.chat.completions.create(
        model="llama", messages=MESSAGES, max_tokens=1, extra_headers={"x-request-id": "mine"}
    )
    assert answer._request_id == "mine"
