"""The KServe SDK's own clients: REST in V1 and V2, and gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import httpx
import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, InferResponse, RESTConfig

from harness import Gateway
from samples import DIGITS, PREDICTED, mixed, pixels

MODELS = pytest.mark.parametrize("model", ["digits", "digits-http"])
BINARY = pytest.mark.parametrize("binary", [True, False], ids=["binary", "plain"])


def rest(protocol: str, use: Callable[[InferenceRESTClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with InferenceRESTClient(RESTConfig(protocol=protocol, timeout=60)) as client:
            await use(client)

    asyncio.run(run())


def rpc(gateway: Gateway, use: Callable[[InferenceGRPCClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with InferenceGRPCClient(gateway.address) as client:
            await use(client)

    asyncio.run(run())


def digit(model: str, index: int, *, binary: bool) -> InferRequest:
    tensor = InferInput("pixels", [1, 64], "FP32")
    tensor.set_data_from_numpy(pixels(index), binary_data=binary)
    parameters = {"binary_data_output": True} if binary else None
    return InferRequest(model, [tensor], request_id=str(index), parameters=parameters)


def check_digit(response: InferResponse, index: int) -> None:
    assert response.id == str(index)
    outputs = {output.name: output.as_numpy() for output in response.outputs}
    assert outputs["class"].tolist() == [PREDICTED[index]]
    assert outputs["probabilities"].shape == (1, 10)


@MODELS
def test_v1_predicts(gateway: Gateway, model: str) -> None:
    async def use(client: InferenceRESTClient) -> None:
        assert await client.is_model_ready(gateway.url, model)
        body = {"instances": [DIGITS[index]["pixels"] for index in range(4)]}
        answer = await client.infer(gateway.url, body, model_name=model)
        assert [prediction["class"] for prediction in answer["predictions"]] == PREDICTED[:4]

    rest("v1", use)


@MODELS
@BINARY
def test_v2_infers(gateway: Gateway, model: str, binary: bool) -> None:
    async def use(client: InferenceRESTClient) -> None:
        assert await client.is_server_live(gateway.url)
        assert await client.is_server_ready(gateway.url)
        assert await client.is_model_ready(gateway.url, model)
        headers: dict[str, str] = {}
        response = await client.infer(
            gateway.url, digit(model, 3, binary=binary), model_name=model, response_headers=headers
        )
        check_digit(response, 3)
        assert headers["x-request-id"]

    rest("v2", use)


@MODELS
@BINARY
def test_grpc_infers(gateway: Gateway, model: str, binary: bool) -> None:
    async def use(client: InferenceGRPCClient) -> None:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(model)
        check_digit(await client.infer(digit(model, 3, binary=binary)), 3)

    rpc(gateway, use)


@pytest.mark.parametrize("model", ["mixed", "mixed-http"])
@BINARY
def test_several_inputs_of_different_types_are_inferred(gateway: Gateway, model: str, binary: bool) -> None:
    ids, weights, total = mixed(5, rows=3)
    tensors = [InferInput("ids", [3, 3], "INT64"), InferInput("weights", [3, 3], "FP32")]
    tensors[0].set_data_from_numpy(ids, binary_data=binary)
    tensors[1].set_data_from_numpy(weights, binary_data=binary)
    request = InferRequest(model, tensors, request_id="5")

    def check(response: InferResponse) -> None:
        outputs = {output.name: output.as_numpy() for output in response.outputs}
        np.testing.assert_array_equal(outputs["echo"], ids)
        np.testing.assert_array_equal(outputs["sum"], total)

    async def by_rest(client: InferenceRESTClient) -> None:
        check(await client.infer(gateway.url, request, model_name=model))

    async def by_grpc(client: InferenceGRPCClient) -> None:
        check(await client.infer(request))

    rest("v2", by_rest)
    rpc(gateway, by_grpc)


@MODELS
def test_many_calls_at_once_answer_each_its_own_input(gateway: Gateway, model: str) -> None:
    async def by_rest(client: InferenceRESTClient) -> None:
        calls = (
            client.infer(gateway.url, digit(model, index, binary=False), model_name=model) for index in range(64)
        )
        for index, response in enumerate(await asyncio.gather(*calls)):
            check_digit(response, index)

    async def by_grpc(client: InferenceGRPCClient) -> None:
        calls = (client.infer(digit(model, index, binary=True)) for index in range(64))
        for index, response in enumerate(await asyncio.gather(*calls)):
            check_digit(response, index)

    rest("v2", by_rest)
    rpc(gateway, by_grpc)


def test_errors_reach_the_caller_as_sentences(gateway: Gateway) -> None:
    async def by_rest(client: InferenceRESTClient) -> None:
        with pytest.raises(httpx.HTTPStatusError, match='did you mean "digits"') as refused:
            await client.infer(gateway.url, digit("digit", 0, binary=False), model_name="digit")
        assert refused.value.response.status_code == 404
        assert not await client.is_model_ready(gateway.url, "digit")

    async def by_grpc(client: InferenceGRPCClient) -> None:
        with pytest.raises(grpc.aio.AioRpcError, match='did you mean "digits"'):
            await client.infer(digit("digit", 0, binary=True))

    rest("v2", by_rest)
    rpc(gateway, by_grpc)
