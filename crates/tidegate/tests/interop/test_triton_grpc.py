"""An unmodified `tritonclient.grpc`, blocking, with callbacks, streaming and asyncio."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from harness import Gateway
from samples import PREDICTED, mixed, pixels

MODELS = pytest.mark.parametrize("model", ["digits", "digits-http"])


@pytest.fixture
def client(gateway: Gateway) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(gateway.address) as client:
        yield client


def digit(index: int) -> triton.InferInput:
    tensor = triton.InferInput("pixels", [1, 64], "FP32")
    tensor.set_data_from_numpy(pixels(index))
    return tensor


def check_digit(result: triton.InferResult, index: int) -> None:
    assert result.get_response().id == str(index)
    assert result.as_numpy("class").tolist() == [PREDICTED[index]]


def test_the_server_describes_itself(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name == "tidegate"
    index = client.get_model_repository_index()
    assert [(model.name, model.state) for model in index.models] == [
        (name, "READY") for name in ("digits", "digits-http", "mixed", "mixed-http")
    ]


@MODELS
def test_a_model_is_described(client: triton.InferenceServerClient, model: str) -> None:
    assert client.is_model_ready(model)
    metadata = client.get_model_metadata(model)
    assert (metadata.name, list(metadata.versions)) == (model, ["1"])
    [tensor] = metadata.inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("pixels", "FP32", [-1, 64])
    assert [output.name for output in metadata.outputs] == ["class", "probabilities"]
    config = client.get_model_config(model).config
    assert (config.name, [list(tensor.dims) for tensor in config.input]) == (model, [[64]])
    assert config.max_batch_size >= 1


def test_statistics_count_what_was_inferred(client: triton.InferenceServerClient) -> None:
    def counts(name: str = "") -> dict[str, int]:
        stats = client.get_inference_statistics(name).model_stats
        return {model.name: model.inference_count for model in stats}

    client.infer("digits", [digit(0)])
    before = counts("digits")["digits"]
    client.infer("digits", [digit(0)])
    assert counts("digits") == {"digits": before + 1}
    assert counts().keys() == {"digits", "digits-http", "mixed", "mixed-http"}


def test_models_are_loaded_on_request_and_unload_by_themselves(client: triton.InferenceServerClient) -> None:
    client.load_model("digits")
    for unsupported in (
        lambda: client.unload_model("digits"),
        client.get_system_shared_memory_status,
        client.get_trace_settings,
    ):
        with pytest.raises(InferenceServerException) as refused:
            unsupported()
        assert refused.value.status() == "StatusCode.UNIMPLEMENTED"


@MODELS
def test_digits_are_inferred(client: triton.InferenceServerClient, model: str) -> None:
    names = ["class", "probabilities"]
    outputs = [triton.InferRequestedOutput(name) for name in names]
    result = client.infer(model, [digit(3)], outputs=outputs, request_id="3", model_version="1")
    response = result.get_response()
    assert (response.model_name, [output.name for output in response.outputs]) == (model, names)
    # The client sent raw contents and gets raw contents.
    assert len(response.raw_output_contents) == 2
    check_digit(result, 3)
    assert result.as_numpy("probabilities").argmax() == PREDICTED[3]


@pytest.mark.parametrize("model", ["mixed", "mixed-http"])
def test_several_inputs_of_different_types_are_inferred(client: triton.InferenceServerClient, model: str) -> None:
    ids, weights, total = mixed(5, rows=3)
    inputs = [triton.InferInput("ids", ids.shape, "INT64"), triton.InferInput("weights", weights.shape, "FP32")]
    inputs[0].set_data_from_numpy(ids)
    inputs[1].set_data_from_numpy(weights)
    result = client.infer(model, inputs)
    np.testing.assert_array_equal(result.as_numpy("echo"), ids)
    np.testing.assert_array_equal(result.as_numpy("sum"), total)


@MODELS
@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_messages_are_understood(
    client: triton.InferenceServerClient, model: str, algorithm: str
) -> None:
    check_digit(client.infer(model, [digit(7)], request_id="7", compression_algorithm=algorithm), 7)


@MODELS
def test_calls_with_callbacks_answer_each_its_own_input(client: triton.InferenceServerClient, model: str) -> None:
    answers: queue.SimpleQueue = queue.SimpleQueue()
    for index in range(32):

        def answered(result: object, error: object, index: int = index) -> None:
            answers.put((index, result, error))

        client.async_infer(model, [digit(index)], answered, request_id=str(index), client_timeout=30)
    for _ in range(32):
        index, result, error = answers.get(timeout=30)
        assert error is None
        check_digit(result, index)


@MODELS
def test_a_stream_answers_every_message(client: triton.InferenceServerClient, model: str) -> None:
    answers: queue.SimpleQueue = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for index in range(16):
        client.async_stream_infer(model, [digit(index)], request_id=str(index))
    client.stop_stream()
    seen = set()
    for _ in range(16):
        result, error = answers.get(timeout=30)
        assert error is None
        check_digit(result, int(result.get_response().id))
        seen.add(result.get_response().id)
    assert len(seen) == 16


def test_a_stream_tells_of_a_bad_message_and_goes_on(client: triton.InferenceServerClient) -> None:
    answers: queue.SimpleQueue = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("digit", [digit(0)], request_id="0")
    _, error = answers.get(timeout=30)
    assert 'did you mean "digits"' in error.message()
    client.async_stream_infer("digits", [digit(1)], request_id="1")
    result, error = answers.get(timeout=30)
    assert error is None
    check_digit(result, 1)
    client.stop_stream()


@MODELS
def test_asyncio_calls_answer_each_its_own_input(gateway: Gateway, model: str) -> None:
    async def requests() -> AsyncIterator[dict]:
        for index in range(8):
            yield {"model_name": model, "inputs": [digit(index)], "request_id": str(index)}

    async def run() -> None:
        async with triton_aio.InferenceServerClient(gateway.address) as client:
            assert await client.is_model_ready(model)
            calls = (client.infer(model, [digit(index)], request_id=str(index)) for index in range(32))
            for index, result in enumerate(await asyncio.gather(*calls)):
                check_digit(result, index)
            answered = []
            async for result, error in client.stream_infer(requests()):
                assert error is None
                answered.append(int(result.get_response().id))
                check_digit(result, answered[-1])
            assert sorted(answered) == list(range(8))

    asyncio.run(run())


@MODELS
def test_time_limits_are_kept(client: triton.InferenceServerClient, model: str) -> None:
    client.infer(model, [digit(0)])
    late = {"StatusCode.DEADLINE_EXCEEDED", "StatusCode.RESOURCE_EXHAUSTED"}
    for limit in ({"client_timeout": 0.001}, {"timeout": 1000}):
        with pytest.raises(InferenceServerException) as refused:
            client.infer(model, [digit(0)], **limit)
        assert refused.value.status() in late
    check_digit(client.infer(model, [digit(6)], request_id="6", client_timeout=30), 6)


def test_a_cancelled_call_ends(client: triton.InferenceServerClient) -> None:
    answers: queue.SimpleQueue = queue.SimpleQueue()
    call = client.async_infer("digits", [digit(0)], lambda result, error: answers.put(error))
    call.cancel()
    error = answers.get(timeout=30)
    assert error is None or error.status() == "StatusCode.CANCELLED"


@MODELS
def test_wrong_inputs_are_refused_in_a_sentence(client: triton.InferenceServerClient, model: str) -> None:
    client.infer(model, [digit(0)])
    for name, values, datatype, sentence in [
        ("pixel", pixels(0), "FP32", 'has no input "pixel"; it expects: pixels'),
        ("pixels", pixels(0)[:, :63], "FP32", "shape [1,63] does not match [-1,64]"),
        ("pixels", pixels(0).astype(np.int32), "INT32", "datatype is INT32"),
    ]:
        tensor = triton.InferInput(name, values.shape, datatype)
        tensor.set_data_from_numpy(values)
        with pytest.raises(InferenceServerException) as refused:
            client.infer(model, [tensor])
        assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
        assert sentence in refused.value.message()


def test_unknown_models_versions_and_outputs_are_refused(client: triton.InferenceServerClient) -> None:
    for arguments, status, sentence in [
        ({"model_name": "digit"}, "NOT_FOUND", 'did you mean "digits"'),
        ({"model_name": "digits", "model_version": "9"}, "NOT_FOUND", 'no version "9"'),
        (
            {"model_name": "digits", "outputs": [triton.InferRequestedOutput("label")]},
            "INVALID_ARGUMENT",
            'no output "label"',
        ),
    ]:
        with pytest.raises(InferenceServerException) as refused:
            client.infer(inputs=[digit(0)], **arguments)
        assert refused.value.status() == f"StatusCode.{status}"
        assert sentence in refused.value.message()


@MODELS
def test_shared_memory_is_refused(client: triton.InferenceServerClient, model: str) -> None:
    tensor = triton.InferInput("pixels", [1, 64], "FP32")
    tensor.set_shared_memory("region", 256)
    with pytest.raises(InferenceServerException) as refused:
        client.infer(model, [tensor])
    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"
