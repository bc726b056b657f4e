"""The engines that the SDK is tried with, and what each must answer."""

from __future__ import annotations

import pathlib
import re
import string
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import requests

from harness import TIDEGATE, Gateway

SERVERS = pathlib.Path(__file__).parents[1] / "servers"


@dataclass(frozen=True)
class Engine(ABC):
    """A running engine. Prompts are told apart by a number from 0 to 25."""

    model: str
    port: int
    pid: int
    #: Seconds within which it sees that nobody waits for a whole answer any more, if it is left alone meanwhile.
    inattention: ClassVar[float] = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @staticmethod
    @abstractmethod
    def prompt(number: int) -> str:
        """One whose answers go on for as long as the caller wants."""

    @staticmethod
    @abstractmethod
    def check(number: int, text: str) -> None:
        """Fails unless the text is an answer to that prompt."""

    @abstractmethod
    def in_work(self) -> int:
        """Calls that the engine works on, or that wait in it."""

    def metric(self, name: str) -> float:
        text = requests.get(f"{self.url}/metrics", timeout=5).text
        return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])


class Llama(Engine):
    """llama.cpp with a model that goes on with the alphabet; see `write_alphabet.py`."""

    # It looks once a second, and starts this second anew at each call that it is asked, also for metrics.
    inattention = 2.0

    @staticmethod
    def prompt(number: int) -> str:
        return f"Call {string.ascii_lowercase[number]}"

    @staticmethod
    def check(number: int, text: str) -> None:
        first = number + 1
        assert text == "".join(string.ascii_lowercase[(first + at) % 26] for at in range(len(text)))

    def in_work(self) -> int:
        return int(self.metric("llamacpp:requests_processing") + self.metric("llamacpp:requests_deferred"))


class Sim(Engine):
    """The simulated engine: it says the words of the prompt again and again."""

    @staticmethod
    def prompt(number: int) -> str:
        return f"word-{number} of call {number}"

    @staticmethod
    def check(number: int, text: str) -> None:
        words = Sim.prompt(number).split()
        assert text.split() == [words[at % len(words)] for at in range(len(text.split()))]

    def in_work(self) -> int:
        counts = requests.get(f"{self.url}/sim/stats", timeout=5).json()
        return counts["running"] + counts["waiting"]


def sim_command(model: str, port: object, *arguments: str) -> list[str]:
    pace = ["--ttft", "20ms", "--prefill", "0", "--tpot", "4ms", "--tpot-per-stream", "0s"]
    return [str(TIDEGATE), "model-server", "--chat-sim", model, "--port", str(port), *pace, *arguments]


def llama_command(file: pathlib.Path, model: str, port: object) -> list[str]:
    return [sys.executable, str(SERVERS / "llama_server.py"), str(file), model, str(port)]


@dataclass(frozen=True)
class Served:
    """An engine and the way to it: itself, or through a gateway."""

    engine: Engine
    url: str
    gateway: Gateway | None

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"
