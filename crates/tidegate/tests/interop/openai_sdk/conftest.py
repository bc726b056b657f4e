"""llama.cpp and the simulated engine, and one gateway in front of both."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests
from openai import OpenAI

from engines import SERVERS, Engine, Llama, Served, Sim, llama_command, sim_command
from harness import Gateway, Process, free_port, serving, static, wait_for
from scripted import MODEL, Scripted, scripted_engine

ENGINES = ("llama", "sim")
ROUTES = ("direct", "gateway")


@pytest.fixture(scope="session")
def alphabet(folder: pathlib.Path) -> pathlib.Path:
    """The file of llama.cpp's model."""
    file = folder / "alphabet.gguf"
    subprocess.run([sys.executable, SERVERS / "write_alphabet.py", file], check=True, timeout=60)
    return file


@pytest.fixture(scope="session")
def llama(alphabet: pathlib.Path, folder: pathlib.Path) -> Iterator[Llama]:
    port = free_port()
    with running("llama", port, llama_command(alphabet, "llama", port), folder) as pid:
        yield Llama("llama", port, pid)


@pytest.fixture(scope="session")
def sim(folder: pathlib.Path) -> Iterator[Sim]:
    port = free_port()
    with running("sim", port, sim_command("sim", port), folder) as pid:
        yield Sim("sim", port, pid)


@contextmanager
def running(name: str, port: int, command: list[str], folder: pathlib.Path) -> Iterator[int]:
    server = Process(name, command, folder)

    def is_healthy() -> bool:
        server.check_alive()
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok

    try:
        wait_for(name, is_healthy)
        yield server.pid
        server.check_alive()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def engines(llama: Llama, sim: Sim) -> dict[str, Engine]:
    return {engine.model: engine for engine in (llama, sim)}


@pytest.fixture(scope="session")
def front(engines: dict[str, Engine], folder: pathlib.Path) -> Iterator[Gateway]:
    with in_front("front", engines, folder) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def merging(engines: dict[str, Engine], folder: pathlib.Path) -> Iterator[Gateway]:
    """One that takes the same engines for models of embeddings only."""
    with in_front("merging", engines, folder, slo={"p99": "500ms"}) as gateway:
        yield gateway


@contextmanager
def in_front(name: str, engines: dict[str, Engine], folder: pathlib.Path, **settings: object) -> Iterator[Gateway]:
    models = [static(engine.model, engine.port, "openai") | settings for engine in engines.values()]
    with serving(name, models, folder) as gateway:
        for model in engines:
            gateway.wait_until_ready(model)
        yield gateway


@pytest.fixture(params=[(engine, route) for engine in ENGINES for route in ROUTES], ids="-".join)
def served(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Served:
    name, route = request.param
    engine = engines[name]
    if route == "direct":
        return Served(engine, engine.url, None)
    gateway = request.getfixturevalue("front")
    return Served(engine, gateway.url, gateway)


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with scripted_engine() as engine:
        yield engine


@pytest.fixture
def scripted_url(request: pytest.FixtureRequest, scripted: Scripted, folder: pathlib.Path) -> Iterator[str]:
    """Where the SDK finds the scripted engine: behind a gateway of its own, unless a test wants the engine itself."""
    if getattr(request, "param", "gateway") == "direct":
        yield f"http://127.0.0.1:{scripted.port}/v1"
        return
    with serving("scripted", [static(MODEL, scripted.port, "openai")], folder) as gateway:
        gateway.wait_until_ready(MODEL)
        yield f"{gateway.url}/v1"


@pytest.fixture
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=served.base_url, api_key="none", max_retries=0, timeout=60) as client:
        yield client
