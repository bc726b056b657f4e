"""What a user of the SDK does, with each engine directly and through the gateway: the same tests hold for both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from engines import Served
from harness import wait_for

#: Tokens that take either engine ten seconds and more.
ENDLESS = 12_000
#: How long an engine may go on for a caller who has left, in seconds. A tenth is usual; where other processes keep the
#: machine busy, asking the engine takes longer than that.
CANCEL = 4.0


def messages(served: Served, number: int = 0) -> list[ChatCompletionMessageParam]:
    return [
        {"role": "system", "content": "You are a test."},
        {"role": "user", "content": served.engine.prompt(number)},
    ]


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_a_chat_is_answered_in_one_piece(served: Served, client: OpenAI) -> None:
    answer = client.chat.completions.create(model=served.engine.model, messages=messages(served, 3), max_tokens=20)
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    served.engine.check(3, choice.message.content)
    assert choice.finish_reason == "length"
    assert answer.model == served.engine.model
    assert answer.usage.completion_tokens == 20
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 20


def test_a_chat_is_streamed(served: Served, client: OpenAI) -> None:
    with client.chat.completions.create(
        model=served.engine.model, messages=messages(served, 4), max_tokens=20, stream=True
    ) as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        chunks = list(stream)
    served.engine.check(4, text_of(chunks))
    assert len(chunks) >= 20
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": False}}, {"stream_options": None}])
def test_no_usage_is_streamed_to_who_did_not_ask(served: Served, client: OpenAI, options: dict) -> None:
    stream = client.chat.completions.create(
        model=served.engine.model, messages=messages(served), max_tokens=5, stream=True, **options
    )
    chunks = list(stream)
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_is_streamed_last_to_who_asked(served: Served, client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=served.engine.model,
        messages=messages(served),
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = stream
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage.completion_tokens == 5
    assert last.usage.total_tokens == last.usage.prompt_tokens + 5


def test_a_text_is_completed_in_one_piece_and_streamed(served: Served, client: OpenAI) -> None:
    prompt = served.engine.prompt(5)
    answer = client.completions.create(model=served.engine.model, prompt=prompt, max_tokens=12)
    served.engine.check(5, answer.choices[0].text)
    assert answer.usage.completion_tokens == 12
    stream = client.completions.create(model=served.engine.model, prompt=prompt, max_tokens=12, stream=True)
    chunks = list(stream)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == answer.choices[0].text
    # llama.cpp has usage in the last chunk with text, whether asked or not.
    assert all(chunk.choices for chunk in chunks)


def test_a_response_is_given_in_one_piece_and_streamed(served: Served, client: OpenAI) -> None:
    prompt = served.engine.prompt(6)
    answer = client.responses.create(model=served.engine.model, input=prompt, max_output_tokens=12)
    served.engine.check(6, answer.output_text)
    assert answer.usage.output_tokens == 12
    stream = client.responses.create(model=served.engine.model, input=prompt, max_output_tokens=12, stream=True)
    events = list(stream)
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == answer.output_text
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert events[-1].response.usage.output_tokens == 12


def test_models_are_listed(served: Served, client: OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert models[served.engine.model].object == "model"


def test_a_body_that_is_wrong_is_a_bad_request(served: Served, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=served.engine.model, messages="hello", max_tokens=1)
    assert caught.value.body["message"]


def test_the_asyncio_client_is_answered_alike(served: Served) -> None:
    async def run() -> None:
        async with AsyncOpenAI(base_url=served.base_url, api_key="none", max_retries=0, timeout=60) as client:
            create = client.chat.completions.create
            whole = await create(model=served.engine.model, messages=messages(served, 7), max_tokens=20)
            stream = await create(
                model=served.engine.model, messages=messages(served, 7), max_tokens=20, stream=True
            )
            chunks = [chunk async for chunk in stream]
            served.engine.check(7, whole.choices[0].message.content)
            assert text_of(chunks) == whole.choices[0].message.content

    asyncio.run(run())


def test_concurrent_streams_keep_their_own_content(served: Served) -> None:
    async def run() -> None:
        async with AsyncOpenAI(base_url=served.base_url, api_key="none", max_retries=0, timeout=60) as client:

            async def call(number: int) -> None:
                stream = await client.chat.completions.create(
                    model=served.engine.model, messages=messages(served, number), max_tokens=60, stream=True
                )
                text = text_of([chunk async for chunk in stream])
                assert len(text) >= 60
                served.engine.check(number, text)

            await asyncio.gather(*map(call, range(26)))

    asyncio.run(run())


def check_cancelled(served: Served, left: float) -> None:
    wait_for("the engine to stop", lambda: served.engine.in_work() == 0)
    assert time.monotonic() - left < CANCEL


def test_an_engine_stops_when_a_stream_is_closed(served: Served, client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=served.engine.model, messages=messages(served), max_tokens=ENDLESS, stream=True
    )
    first_few(stream)
    assert served.engine.in_work() == 1
    stream.close()
    check_cancelled(served, time.monotonic())


def first_few(stream: Iterator[ChatCompletionChunk]) -> None:
    for _ in range(5):
        next(stream)


def test_an_engine_stops_when_an_asyncio_caller_is_cancelled(served: Served) -> None:
    async def read(stream: AsyncIterator[ChatCompletionChunk], begun: asyncio.Event) -> None:
        async for _ in stream:
            begun.set()

    async def run() -> float:
        async with AsyncOpenAI(base_url=served.base_url, api_key="none", max_retries=0, timeout=60) as client:
            stream = await client.chat.completions.create(
                model=served.engine.model, messages=messages(served), max_tokens=ENDLESS, stream=True
            )
            begun = asyncio.Event()
            reader = asyncio.create_task(read(stream, begun))
            await begun.wait()
            assert await asyncio.to_thread(served.engine.in_work) == 1
            reader.cancel()
            return time.monotonic()

    check_cancelled(served, asyncio.run(run()))


def test_an_engine_stops_when_who_wanted_a_whole_answer_gives_up(served: Served, client: OpenAI) -> None:
    hasty = client.with_options(timeout=0.5)
    with pytest.raises(openai.APITimeoutError):
        hasty.chat.completions.create(model=served.engine.model, messages=messages(served), max_tokens=ENDLESS)
    time.sleep(served.engine.inattention)
    check_cancelled(served, time.monotonic())
