"""Starts `tidegate serve` and other servers as real processes on free ports, and ends every one of them."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

import requests

T = TypeVar("T")
ROOT = pathlib.Path(__file__).resolve().parents[4]
EXAMPLES = ROOT / "examples"
TIDEGATE = pathlib.Path(os.environ.get("TIDEGATE", ROOT / "target/debug/tidegate"))
#: Slow enough for batches to form: 8 ms a call and 1 ms a row.
PACE = "8ms+1ms"
#: Calls that wait together where it is shown that they are merged.
CROWD = 48
#: How long a server may take to start on a busy machine, in seconds.
PATIENCE = 120.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what: str, condition: Callable[[], object], patience: float = PATIENCE) -> object:
    """Returns the first truthy answer of `condition`; whoever listens on nothing yet counts as no answer."""
    end = time.monotonic() + patience
    while True:
        try:
            if answer := condition():
                return answer
        except (requests.ConnectionError, requests.Timeout):
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {patience:.0f} s")
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    return pathlib.Path(f"/proc/{pid}").exists()


class Process:
    """A child in a process group of its own, with its output in a file."""

    def __init__(self, name: str, command: list[str], folder: pathlib.Path, env: dict[str, str] | None = None):
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.child.pid

    def check_alive(self) -> None:
        if self.child.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.child.returncode}:\n{self.tail()}")

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, patience: float = 30.0) -> int:
        """SIGTERM, then SIGKILL for the whole group; returns the exit code."""
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(patience)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
        return self.child.wait(patience)


class Gateway(Process):
    """A `tidegate serve` with these models, and what its admin port says of them."""

    def __init__(self, name: str, models: list[dict], folder: pathlib.Path, **settings: object):
        self.address = f"127.0.0.1:{free_port()}"
        self.admin = f"http://127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        config = folder / f"{name}.yaml"
        # YAML includes JSON.
        config.write_text(
            json.dumps(
                {
                    "listen": self.address,
                    "admin": self.admin.removeprefix("http://"),
                    "shutdown": {"acceptFor": "0s", "drain": "5s"},
                    "models": models,
                }
                | settings
            )
        )
        super().__init__(name, [str(TIDEGATE), "serve", "--config", str(config)], folder)
        try:
            wait_for(f"{name} to listen", self._listens)
        except BaseException:
            self.stop()
            raise

    def _listens(self) -> bool:
        self.check_alive()
        return requests.get(f"{self.admin}/livez", timeout=5).ok

    def model(self, model: str) -> dict:
        return self._api(f"models/{model}")

    def decisions(self, model: str) -> list[dict]:
        """Newest first."""
        return self._api(f"models/{model}/decisions?n=1000")["decisions"]

    def ready(self, model: str) -> int:
        return self.model(model)["replicas"]["ready"]

    def wait_until_ready(self, model: str, replicas: int = 1) -> None:
        wait_for(f"{replicas} ready {model}", lambda: self.ready(model) >= replicas)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels."""
        text = requests.get(f"{self.admin}/metrics", timeout=5).text
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        total = 0.0
        for found in re.finditer(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE):
            if all(label in (found[1] or "") for label in wanted):
                total += float(found[2])
        return total

    def batched(self, model: str) -> tuple[float, float]:
        """Rows that were sent to the model's replicas, and in how many calls."""
        rows, calls = (self.metric(f"tidegate_batch_rows_{part}", model=model) for part in ("sum", "count"))
        return rows, calls

    def in_a_crowd(self, model: str, server: int, callers: Callable[[], T]) -> T:
        """What `callers` return, who call while the model's only server is stopped as in `crowded`. Where they take so
        long to come that the gateway gives the silent server up, they come again."""
        for _ in range(3):
            try:
                with self.crowded(model, server):
                    return callers()
            except Exception as error:
                if "no replica is running" not in str(error):
                    raise
            ready = f"{self.url}/v2/models/{model}/ready?strict=1"
            wait_for(f"{model} to be ready again", lambda: requests.get(ready, timeout=5).ok)
        with self.crowded(model, server):
            return callers()

    @contextmanager
    def crowded(self, model: str, server: int) -> Iterator[None]:
        """Stops the process of the model's only server until `CROWD` calls wait for it or are with it, at most 10 s:
        however slow the callers are and however fast the server is, those after its first batch can be merged."""

        def is_crowded() -> bool:
            waiting = self.metric("tidegate_queue_requests", model=model)
            return waiting + self.metric("tidegate_replica_inflight", model=model) >= CROWD

        def release_when_crowded() -> None:
            try:
                # Those who have come by then must do: another replica may have taken the others.
                with suppress(TimeoutError):
                    wait_for(f"{CROWD} calls to wait for {model}", is_crowded, 10)
            finally:
                # A process fleet may have replaced it.
                with suppress(ProcessLookupError):
                    os.kill(server, signal.SIGCONT)

        os.kill(server, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            release = pool.submit(release_when_crowded)
            yield
            release.result()

    def replica_pids(self, model: str) -> list[int]:
        """Of every replica that was ever started, oldest first."""
        entries = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        started = (entry for entry in entries if entry["message"] == "replica started")
        return [entry["pid"] for entry in started if entry["span"]["model"] == model]

    def _api(self, path: str) -> dict:
        response = requests.get(f"{self.admin}/api/{path}", timeout=5)
        response.raise_for_status()
        return response.json()


@contextmanager
def serving(name: str, models: list[dict], folder: pathlib.Path, **settings: object) -> Iterator[Gateway]:
    """A gateway that must still be alive at the end, and must then stop in good order."""
    gateway = Gateway(name, models, folder, **settings)
    try:
        yield gateway
        gateway.check_alive()
        assert gateway.metric("tidegate_panics_total") == 0
    except BaseException:
        print(f"--- {gateway.log}\n{gateway.tail()}")
        raise
    finally:
        code = gateway.stop()
    assert code == 0, f"{name} ended with {code}:\n{gateway.tail()}"
    left = [pid for model in models for pid in gateway.replica_pids(model["name"]) if is_alive(pid)]
    assert not left, f"{name} left replicas behind: {left}"


def static(name: str, port: int, protocol: str, batching: object = "auto") -> dict:
    """A model on a server that runs already."""
    addresses = [f"127.0.0.1:{port}"]
    return {"name": name, "fleet": {"static": {"addresses": addresses}}, "protocol": protocol, "batching": batching}


def bundled(name: str, onnx: str, *, arguments: tuple[str, ...] = (), **settings: object) -> dict:
    """A model of examples/models on the bundled server, at zero until it is called."""
    path = EXAMPLES / "models" / f"{onnx}.onnx"
    command = ["tidegate", "model-server", "--onnx", f"{name}={path}", "--port", "{port}", *arguments]
    model = {
        "name": name,
        "fleet": {"process": {"command": command}},
        "protocol": "v2-grpc",
        "scaling": {"min": 0, "max": 1},
    }
    return model | settings

