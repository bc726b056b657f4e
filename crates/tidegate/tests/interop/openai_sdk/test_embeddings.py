"""Embeddings with each engine directly and through the gateway."""

from __future__ import annotations

import asyncio
import base64

import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from engines import Engine, Served
from harness import CROWD, Gateway

#: Texts of different lengths, each with a vector of its own.
TEXTS = [f"{index} " + "text " * (1 + index % 7) for index in range(64)]
#: Longer than either engine takes.
REFUSED = "long " * 120_000


def directly(served: Served, texts: list[str]) -> list[list[float]]:
    """What the engine says when it is asked for one after the other."""
    with OpenAI(base_url=f"{served.engine.url}/v1", api_key="none", timeout=60) as client:
        create = client.embeddings.create
        return [create(model=served.engine.model, input=text).data[0].embedding for text in texts]


def same(a: list[float], b: list[float]) -> bool:
    """But for the order in which a batch is summed."""
    return len(a) == len(b) and np.allclose(a, b, rtol=1e-3, atol=1e-5)


def test_one_text_is_embedded(served: Served, client: OpenAI) -> None:
    answer = client.embeddings.create(model=served.engine.model, input=TEXTS[0])
    [item] = answer.data
    assert item.index == 0
    assert same(item.embedding, directly(served, TEXTS[:1])[0])
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_a_list_of_texts_is_embedded_in_its_order(served: Served, client: OpenAI, encoding: str) -> None:
    texts = TEXTS[:9]
    answer = client.embeddings.create(model=served.engine.model, input=texts, encoding_format=encoding)
    assert [item.index for item in answer.data] == list(range(9))
    for item, expected in zip(answer.data, directly(served, texts), strict=True):
        got = item.embedding
        if isinstance(got, str):
            got = np.frombuffer(base64.b64decode(got), dtype="<f4").tolist()
        assert same(got, expected)


def test_many_callers_get_their_own_vectors(served: Served) -> None:
    expected = directly(served, TEXTS)
    for first in range(len(TEXTS)):
        assert not any(same(expected[first], expected[second]) for second in range(first))
    asyncio.run(all_at_once(served, expected))


async def all_at_once(served: Served, expected: list[list[float]]) -> None:
    async with AsyncOpenAI(base_url=served.base_url, api_key="none", max_retries=0, timeout=60) as client:

        async def call(index: int) -> None:
            answer = await client.embeddings.create(model=served.engine.model, input=TEXTS[index])
            [item] = answer.data
            assert item.index == 0
            assert same(item.embedding, expected[index])

        await asyncio.gather(*map(call, range(len(TEXTS))))


@pytest.mark.parametrize("name", ["llama", "sim"])
def test_callers_who_wait_for_an_engine_are_merged(
    merging: Gateway, engines: dict[str, Engine], name: str
) -> None:
    served = Served(engines[name], merging.url, merging)
    expected = directly(served, TEXTS)
    rows_before, calls_before = merging.batched(name)
    merging.in_a_crowd(name, served.engine.pid, lambda: asyncio.run(all_at_once(served, expected)))
    rows_after, calls_after = merging.batched(name)
    rows, calls = rows_after - rows_before, calls_after - calls_before
    print(f"{name}: {rows:.0f} texts in {calls:.0f} calls")
    assert rows - calls > CROWD / 2


@pytest.mark.parametrize("name", ["llama", "sim"])
def test_lists_and_single_texts_that_are_merged_are_parted_again(
    merging: Gateway, engines: dict[str, Engine], name: str
) -> None:
    """Also where one of them is refused by the engine: it alone is."""
    served = Served(engines[name], merging.url, merging)
    expected = directly(served, TEXTS)

    async def run() -> None:
        async with AsyncOpenAI(base_url=served.base_url, api_key="none", max_retries=0, timeout=60) as client:

            async def call(index: int) -> None:
                texts = TEXTS[index : index + 1 + index % 3]
                answer = await client.embeddings.create(
                    model=name, input=texts, encoding_format="float" if index % 2 else openai.NOT_GIVEN
                )
                assert [item.index for item in answer.data] == list(range(len(texts)))
                for item, vector in zip(answer.data, expected[index:], strict=False):
                    assert same(item.embedding, vector)

            async def refused() -> None:
                # llama.cpp calls it a failure of its own, with status 500.
                with pytest.raises(openai.BadRequestError if name == "sim" else openai.InternalServerError):
                    await client.embeddings.create(model=name, input=REFUSED)

            await asyncio.gather(refused(), *map(call, range(len(TEXTS))), refused())

    merging.in_a_crowd(name, served.engine.pid, lambda: asyncio.run(run()))
