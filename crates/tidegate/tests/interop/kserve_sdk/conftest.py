"""The KServe SDK's server, and gateways in front of it by each of its three protocols."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest
import requests

from harness import Gateway, Process, free_port, serving, static, wait_for
from upstream import MODELS, ROUTES, SERVER, KServe


@pytest.fixture(scope="session")
def kserve_server(folder: pathlib.Path) -> Iterator[KServe]:
    http, rpc = free_port(), free_port()
    command = [sys.executable, str(SERVER), "--http_port", str(http), "--grpc_port", str(rpc)]
    server = Process("kserve", command, folder)

    def is_ready() -> bool:
        server.check_alive()
        return all(requests.get(f"http://127.0.0.1:{http}/v2/models/{model}/ready", timeout=5).ok for model in MODELS)

    try:
        wait_for("the KServe SDK's server", is_ready)
        with ExitStack() as stack:
            gateways = [stack.enter_context(in_front(*route, http, rpc, folder)) for route in ROUTES]
            for gateway in gateways:
                for model in MODELS:
                    gateway.wait_until_ready(model)
            routes = dict(zip(ROUTES, gateways, strict=True))
            yield KServe(f"http://127.0.0.1:{http}", f"127.0.0.1:{rpc}", routes)
    finally:
        server.stop()


def in_front(
    protocol: str, batching: str, http: int, rpc: int, folder: pathlib.Path
) -> AbstractContextManager[Gateway]:
    port = rpc if protocol == "v2-grpc" else http
    models = [static(model, port, protocol, batching) for model in MODELS]
    return serving(f"kserve-{protocol}-{batching}", models, folder)


@pytest.fixture(params=ROUTES, ids="-".join)
def route(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param
