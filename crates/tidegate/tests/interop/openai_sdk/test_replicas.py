"""The SDK while replicas come and go: engines started from zero by a call, one killed in a stream, some that fail."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import time
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from engines import Llama, Sim, llama_command, sim_command
from harness import Gateway, serving, wait_for

#: Of the simulated engine's load, in seconds.
START = 1.5
MESSAGES = [{"role": "user", "content": Llama.prompt(2)}]


def from_zero(name: str, command: list[str]) -> dict:
    return {
        "name": name,
        "fleet": {"process": {"command": command}},
        "protocol": "openai",
        "deadline": {"default": "120s"},
        "scaling": {"min": 0, "max": 1},
    }


@pytest.fixture(scope="module")
def cold(alphabet: pathlib.Path, folder: pathlib.Path) -> Iterator[Gateway]:
    names = ("whole", "streamed", "embedded", "killed")
    models = [from_zero(name, llama_command(alphabet, name, "{port}")) for name in names]
    models.append(from_zero("slow", sim_command("slow", "{port}", "--start-delay", f"{START}s")))
    with serving("cold", models, folder) as gateway:
        yield gateway


@pytest.fixture
def caller(cold: Gateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{cold.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def seconds(cold_start: str) -> float:
    return float(cold_start.removesuffix("s"))


def test_models_at_zero_are_listed_and_stay_there(cold: Gateway, caller: OpenAI) -> None:
    assert {"whole", "streamed", "embedded", "killed", "slow"} == {model.id for model in caller.models.list()}
    assert cold.ready("killed") == 0


def test_a_chat_wakes_an_engine(cold: Gateway, caller: OpenAI) -> None:
    assert cold.ready("whole") == 0
    answer = caller.chat.completions.with_raw_response.create(model="whole", messages=MESSAGES, max_tokens=9)
    assert 0 < seconds(answer.headers["x-tidegate-cold-start"]) <= answer.elapsed.total_seconds()
    Llama.check(2, answer.parse().choices[0].message.content)
    again = caller.chat.completions.with_raw_response.create(model="whole", messages=MESSAGES, max_tokens=9)
    assert "x-tidegate-cold-start" not in again.headers


def test_a_stream_wakes_an_engine(cold: Gateway, caller: OpenAI) -> None:
    assert cold.ready("streamed") == 0
    stream = caller.chat.completions.create(model="streamed", messages=MESSAGES, max_tokens=9, stream=True)
    assert seconds(stream.response.headers["x-tidegate-cold-start"]) > 0
    Llama.check(2, "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices))


def test_callers_who_wait_for_the_same_engine_are_all_answered(cold: Gateway) -> None:
    async def run() -> None:
        async with AsyncOpenAI(base_url=f"{cold.url}/v1", api_key="none", max_retries=0, timeout=120) as client:

            async def call(number: int) -> None:
                answer = await client.chat.completions.with_raw_response.create(
                    model="slow", messages=[{"role": "user", "content": Sim.prompt(number)}], max_tokens=9
                )
                assert seconds(answer.headers["x-tidegate-cold-start"]) > 0
                Sim.check(number, answer.parse().choices[0].message.content)

            started = time.monotonic()
            await asyncio.gather(*map(call, range(20)))
            assert time.monotonic() - started >= START

    assert cold.ready("slow") == 0
    asyncio.run(run())
    assert len(cold.replica_pids("slow")) == 1


def test_an_embedding_wakes_an_engine(cold: Gateway, caller: OpenAI) -> None:
    assert cold.ready("embedded") == 0
    answer = caller.embeddings.with_raw_response.create(model="embedded", input="text")
    assert seconds(answer.headers["x-tidegate-cold-start"]) > 0
    assert len(answer.parse().data) == 1


def test_an_engine_that_dies_in_a_stream_is_an_error_and_the_next_call_is_answered(
    cold: Gateway, caller: OpenAI
) -> None:
    stream = caller.chat.completions.create(model="killed", messages=MESSAGES, max_tokens=12_000, stream=True)
    text = ""
    with pytest.raises(openai.APIError) as caught:
        for chunk in stream:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            if len(text) == 5:
                os.kill(cold.replica_pids("killed")[-1], signal.SIGKILL)
    Llama.check(2, text)
    assert not isinstance(caught.value, openai.APIConnectionError)
    assert caught.value.code == "upstream_reset"
    answer = caller.chat.completions.create(model="killed", messages=MESSAGES, max_tokens=9)
    Llama.check(2, answer.choices[0].message.content)
    wait_for("the other replica", lambda: len(cold.replica_pids("killed")) == 2)
