"""What must not reach clients: the death of a replica under load, and a crowd at a model that has none."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import pathlib
import re
import resource
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import requests
import tritonclient.grpc as triton

from harness import PACE, Gateway, bundled, is_alive, serving, wait_for
from samples import DIGITS, PREDICTED, mixed

#: Callers of each surface while replicas die.
CALLERS = 16
#: Seconds of load before and after each death.
BETWEEN = 1.5
#: Seconds for which a replica answers nothing before it dies: not yet long enough to be given up as stalled.
STOPPED = 0.5
CROWD = 10_000
#: Descriptors that are not sockets of the crowd.
SPARE = 500


class Load:
    """Calls over JSON and gRPC, one after the other by each caller, until told to stop. Every answer is checked."""

    def __init__(self, gateway: Gateway):
        self.gateway = gateway
        self.over = threading.Event()
        self.answered = 0
        self.lock = threading.Lock()

    def by_json(self, caller: int) -> None:
        session = requests.Session()

        def call(ids: np.ndarray, weights: np.ndarray) -> np.ndarray:
            tensors = [("ids", "INT64", ids), ("weights", "FP32", weights)]
            inputs = [
                {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}
                for name, datatype, array in tensors
            ]
            url = f"{self.gateway.url}/v2/models/mixed/infer"
            answer = session.post(url, json={"inputs": inputs}, timeout=60)
            assert answer.status_code == 200, answer.text
            [echo] = [output["data"] for output in answer.json()["outputs"] if output["name"] == "echo"]
            return np.array(echo).reshape(ids.shape)

        self.repeat(caller, call)

    def by_grpc(self, caller: int) -> None:
        with triton.InferenceServerClient(self.gateway.address) as client:

            def call(ids: np.ndarray, weights: np.ndarray) -> np.ndarray:
                inputs = [
                    triton.InferInput("ids", ids.shape, "INT64"),
                    triton.InferInput("weights", weights.shape, "FP32"),
                ]
                inputs[0].set_data_from_numpy(ids)
                inputs[1].set_data_from_numpy(weights)
                return client.infer("mixed", inputs, client_timeout=60).as_numpy("echo")

            self.repeat(caller, call)

    def repeat(self, caller: int, call: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        index = caller
        while not self.over.is_set():
            ids, weights, _ = mixed(index)
            np.testing.assert_array_equal(call(ids, weights), ids)
            index += 1000
            with self.lock:
                self.answered += 1


def test_killed_replicas_cost_no_client_an_error(folder: pathlib.Path) -> None:
    model = bundled("mixed", "mixed", arguments=("--pace", PACE), scaling={"min": 2, "max": 2})
    with serving("killed", [model], folder) as gateway:
        gateway.wait_until_ready("mixed", 2)
        load = Load(gateway)
        with ThreadPoolExecutor(2 * CALLERS) as pool:
            callers = [pool.submit(load.by_json, caller) for caller in range(CALLERS)]
            callers += [pool.submit(load.by_grpc, caller) for caller in range(CALLERS, 2 * CALLERS)]
            try:
                for _ in range(3):
                    time.sleep(BETWEEN)
                    kill_one(gateway)
                time.sleep(BETWEEN)
            finally:
                load.over.set()
        for caller in callers:
            caller.result()
        retries = gateway.metric("tidegate_retries_total", model="mixed", result="sent")
        print(f"{load.answered} calls answered, 3 replicas killed, {retries:.0f} calls repeated")
        assert load.answered > 2 * CALLERS
        assert retries >= 1, "no call was in flight at a replica when it died: the test showed nothing"


def kill_one(gateway: Gateway) -> None:
    """SIGKILL to the oldest replica that is left, and back to two ready ones under load."""
    victim = next(pid for pid in gateway.replica_pids("mixed") if is_alive(pid))
    # Stopped first, so that it dies with a call in flight however slowly the callers call.
    os.kill(victim, signal.SIGSTOP)
    time.sleep(STOPPED)
    os.kill(victim, signal.SIGKILL)
    started = len(gateway.replica_pids("mixed"))
    wait_for("the next replica", lambda: len(gateway.replica_pids("mixed")) > started, 30)
    gateway.wait_until_ready("mixed", 2)


def room_for_sockets() -> int:
    """Raises this process's limit of open files as far as it goes; children inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


async def call(address: str, body: bytes, index: int, go: asyncio.Event) -> tuple[int, str, bytes]:
    """One call on a connection of its own, sent when `go` is set: status, reason and body."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        head = f"POST /v2/models/digits/infer HTTP/1.1\r\nhost: {address}\r\nx-request-id: {index}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        await go.wait()
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert f"x-request-id: {index}\r\n" in answer
        length = int(re.search(r"content-length: (\d+)", answer)[1])
        reason = re.search(r"x-tidegate-reason: (\w+)", answer)
        return int(answer.split()[1]), reason[1] if reason else "", await reader.readexactly(length)
    finally:
        writer.close()


async def crowd(address: str, size: int) -> list[tuple[int, str, bytes]]:
    """`size` calls at once; the connections are there before."""
    tensor = {"name": "pixels", "shape": [1, 64], "datatype": "FP32"}
    bodies = [
        json.dumps({"inputs": [tensor | {"data": digit["pixels"]}], "outputs": [{"name": "class"}]}).encode()
        for digit in DIGITS
    ]
    go = asyncio.Event()
    calls = []
    for index in range(size):
        calls.append(asyncio.create_task(call(address, bodies[index % len(bodies)], index, go)))
        if index % 100 == 0:
            # No more connections are opened at once than the listener's backlog takes.
            await asyncio.sleep(0.02)
    go.set()
    return await asyncio.wait_for(asyncio.gather(*calls), 120)


def test_a_crowd_at_zero_is_one_wake_and_everybody_is_answered_or_refused(folder: pathlib.Path) -> None:
    size = min(CROWD, room_for_sockets() - SPARE)
    model = bundled("digits", "digits", arguments=("--start-delay", "2s"), scaling={"min": 0, "max": 2})
    with serving("crowd", [model], folder, limits={"maxConnections": CROWD + SPARE}) as gateway:
        answers = asyncio.run(crowd(gateway.address, size))
        outcomes = collections.Counter((status, reason) for status, reason, _ in answers)
        memory = peak_memory(gateway)
        print(f"{size} calls at zero: {dict(outcomes)}; peak memory {memory >> 20} MiB")
        assert outcomes.keys() <= {(200, ""), (429, "queue_full"), (429, "predicted_late")}
        # The queue holds 1,024; each of those is answered.
        assert outcomes[200, ""] >= 1024
        for index, (status, _, body) in enumerate(answers):
            assert status != 200 or f'"data":[{PREDICTED[index % len(DIGITS)]}]'.encode() in body
        decisions = [entry["decision"] for entry in gateway.decisions("digits")]
        wakes = [decision["to"] for decision in decisions if decision["from"] == 0 and decision["to"] > 0]
        assert len(wakes) == 1
        assert gateway.metric("tidegate_cold_starts_total", model="digits", outcome="failed") == 0
        assert memory < 1 << 30


def peak_memory(gateway: Gateway) -> int:
    status = pathlib.Path(f"/proc/{gateway.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10
