"""Simulated engines that fail in every way they know: each failure is an exception of the SDK, soon, and never a
short answer that looks whole."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI

from engines import Sim, sim_command
from harness import Gateway, serving

#: How each is to fail, and the statuses that may come of it where no answer has begun.
FAULTS = {
    "error": {502},
    "reset": {502},
    "stall": {504},
    "nonsense": {502},
    "truncate": {502},
    "busy": {429, 503, 504},
}
#: Of a call, in milliseconds.
DEADLINE = 1500


@pytest.fixture(scope="module")
def failing(folder: pathlib.Path) -> Iterator[Gateway]:
    models = [
        {
            "name": fault,
            "fleet": {"process": {"command": sim_command(fault, "{port}", "--fail", f"{fault}=1")}},
            "protocol": "openai",
            "scaling": {"min": 1, "max": 1},
        }
        for fault in (*FAULTS, "no-done")
    ]
    with serving("failing", models, folder) as gateway:
        for model in models:
            gateway.wait_until_ready(model["name"])
        yield gateway


@pytest.fixture
def caller(failing: Gateway) -> Iterator[OpenAI]:
    headers = {"x-request-timeout-ms": str(DEADLINE)}
    with OpenAI(
        base_url=f"{failing.url}/v1", api_key="none", max_retries=0, timeout=60, default_headers=headers
    ) as client:
        yield client


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_before_the_answer_is_a_status(caller: OpenAI, fault: str) -> None:
    started = time.monotonic()
    with pytest.raises(openai.APIStatusError) as caught:
        caller.chat.completions.create(
            model=fault, messages=[{"role": "user", "content": Sim.prompt(0)}], max_tokens=20
        )
    assert caught.value.status_code in FAULTS[fault]
    assert caught.value.code == caught.value.response.headers["x-tidegate-reason"]
    assert time.monotonic() - started < DEADLINE / 1e3 + 5


@pytest.mark.parametrize("fault", [*FAULTS, "no-done"])
def test_a_failure_within_a_stream_is_raised_after_what_came(caller: OpenAI, fault: str) -> None:
    """Where it fails is drawn by the prompt: also before the first token."""
    for number in range(2 if fault in ("stall", "busy") else 6):
        text, tokens = "", 0
        with pytest.raises(openai.APIError) as caught:
            stream = caller.chat.completions.create(
                model=fault,
                messages=[{"role": "user", "content": Sim.prompt(number)}],
                max_tokens=20,
                stream=True,
            )
            for chunk in stream:
                said = "".join(choice.delta.content or "" for choice in chunk.choices)
                text, tokens = text + said, tokens + bool(said)
        assert not isinstance(caught.value, openai.APIConnectionError)
        assert caught.value.code
        Sim.check(number, text)
        assert tokens < 20 or fault == "no-done"
