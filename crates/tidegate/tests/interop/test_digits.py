"""Every held-out digit through every surface, 64 calls at a time: each answer belongs to its own input, and the
model saw batches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.http.aio as triton_http

from harness import CROWD, Gateway
from samples import DIGITS, PREDICTED, mixed, pixels

CONCURRENCY = 64
MODELS = pytest.mark.parametrize("model", ["digits", "digits-http"])
Call = Callable[[int], int]


class Sessions(threading.local):
    """A keep-alive connection for each thread."""

    def __init__(self) -> None:
        self.session = requests.Session()


def all_digits(call: Call) -> list[int]:
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return list(pool.map(call, range(len(DIGITS))))


def by_v1(gateway: Gateway, model: str) -> list[int]:
    sessions = Sessions()

    def call(index: int) -> int:
        body = {"instances": [DIGITS[index]["pixels"]]}
        answer = sessions.session.post(f"{gateway.url}/v1/models/{model}:predict", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        [prediction] = answer.json()["predictions"]
        return prediction["class"]

    return all_digits(call)


def by_v2_json(gateway: Gateway, model: str) -> list[int]:
    sessions = Sessions()

    def call(index: int) -> int:
        tensor = {"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": DIGITS[index]["pixels"]}
        body = {"id": str(index), "inputs": [tensor]}
        answer = sessions.session.post(f"{gateway.url}/v2/models/{model}/infer", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["id"] == str(index)
        [label] = [output["data"] for output in answer.json()["outputs"] if output["name"] == "class"]
        return label[0]

    return all_digits(call)


def by_v2_binary(gateway: Gateway, model: str) -> list[int]:
    async def run() -> list[int]:
        room = asyncio.Semaphore(CONCURRENCY)
        async with triton_http.InferenceServerClient(gateway.address, conn_limit=CONCURRENCY) as client:

            async def call(index: int) -> int:
                tensor = triton_http.InferInput("pixels", [1, 64], "FP32")
                tensor.set_data_from_numpy(pixels(index))
                async with room:
                    result = await client.infer(model, [tensor], request_id=str(index))
                assert result.get_response()["id"] == str(index)
                return int(result.as_numpy("class")[0])

            return await asyncio.gather(*map(call, range(len(DIGITS))))

    return asyncio.run(run())


def by_v2_grpc(gateway: Gateway, model: str) -> list[int]:
    with triton_grpc.InferenceServerClient(gateway.address) as client:

        def call(index: int) -> int:
            tensor = triton_grpc.InferInput("pixels", [1, 64], "FP32")
            tensor.set_data_from_numpy(pixels(index))
            result = client.infer(model, [tensor], request_id=str(index), client_timeout=60)
            assert result.get_response().id == str(index)
            return int(result.as_numpy("class")[0])

        return all_digits(call)


@MODELS
@pytest.mark.parametrize("surface", [by_v1, by_v2_json, by_v2_binary, by_v2_grpc])
def test_all_digits_are_classified_in_batches_as_by_the_model_alone(
    gateway: Gateway, model: str, surface: Callable[[Gateway, str], list[int]]
) -> None:
    assert requests.get(f"{gateway.url}/v2/models/{model}", timeout=60).ok, "it has a replica from here on"
    rows_before, calls_before = gateway.batched(model)
    classes = gateway.in_a_crowd(model, gateway.replica_pids(model)[-1], lambda: surface(gateway, model))
    assert classes == PREDICTED
    rows_after, calls_after = gateway.batched(model)
    rows, calls = rows_after - rows_before, calls_after - calls_before
    print(f"{model} {surface.__name__}: {rows / calls:.1f} rows a batch")
    # Each batch saves all its rows but one a call of their own.
    assert rows - calls > CROWD / 2


@pytest.mark.parametrize("model", ["mixed", "mixed-http"])
def test_rows_of_different_callers_are_never_exchanged(gateway: Gateway, model: str) -> None:
    """Calls of 1 to 3 rows; every row of an answer names the call and the row that it was computed from."""
    with triton_grpc.InferenceServerClient(gateway.address) as client:

        def call(index: int) -> None:
            ids, weights, total = mixed(index, rows=1 + index % 3)
            inputs = [
                triton_grpc.InferInput("ids", ids.shape, "INT64"),
                triton_grpc.InferInput("weights", weights.shape, "FP32"),
            ]
            inputs[0].set_data_from_numpy(ids)
            inputs[1].set_data_from_numpy(weights)
            result = client.infer(model, inputs, client_timeout=60)
            np.testing.assert_array_equal(result.as_numpy("echo"), ids)
            np.testing.assert_array_equal(result.as_numpy("sum"), total)

        with ThreadPoolExecutor(CONCURRENCY) as pool:
            list(pool.map(call, range(600)))
