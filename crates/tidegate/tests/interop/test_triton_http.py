"""An unmodified `tritonclient.http`, blocking and asyncio, with JSON and binary tensors in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from harness import Gateway
from samples import PREDICTED, mixed, pixels

MODELS = pytest.mark.parametrize("model", ["digits", "digits-http"])
BINARY_IN = pytest.mark.parametrize("binary_in", [True, False], ids=["binary-in", "json-in"])
BINARY_OUT = pytest.mark.parametrize("binary_out", [True, False], ids=["binary-out", "json-out"])


@pytest.fixture
def client(gateway: Gateway) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(gateway.address, concurrency=8) as client:
        yield client


def digit(index: int, *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("pixels", [1, 64], "FP32")
    tensor.set_data_from_numpy(pixels(index), binary_data=binary)
    return tensor


def mixed_inputs(index: int, rows: int, *, binary: bool) -> list[triton.InferInput]:
    ids, weights, _ = mixed(index, rows)
    inputs = [triton.InferInput("ids", ids.shape, "INT64"), triton.InferInput("weights", weights.shape, "FP32")]
    for tensor, values in zip(inputs, (ids, weights), strict=True):
        tensor.set_data_from_numpy(values, binary_data=binary)
    return inputs


def test_the_server_describes_itself(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    server = client.get_server_metadata()
    assert server["name"] == "tidegate"
    assert "binary_tensor_data" in server["extensions"]
    index = client.get_model_repository_index()
    assert [(model["name"], model["state"]) for model in index] == [
        (name, "READY") for name in ("digits", "digits-http", "mixed", "mixed-http")
    ]


@MODELS
def test_a_model_is_described(client: triton.InferenceServerClient, model: str) -> None:
    assert client.is_model_ready(model)
    assert client.is_model_ready(model, "1")
    metadata = client.get_model_metadata(model)
    assert metadata["name"] == model
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}]
    assert [output["name"] for output in metadata["outputs"]] == ["class", "probabilities"]
    config = client.get_model_config(model)
    assert config["name"] == model
    assert config["max_batch_size"] >= 1
    assert config["input"] == [{"name": "pixels", "data_type": "TYPE_FP32", "dims": [64]}]


def test_statistics_count_what_was_inferred(client: triton.InferenceServerClient) -> None:
    def of(statistics: dict) -> dict[str, int]:
        return {model["name"]: model["inference_count"] for model in statistics["model_stats"]}

    client.infer("digits", [digit(0)])
    before = of(client.get_inference_statistics("digits"))["digits"]
    client.infer("digits", [digit(0)])
    assert of(client.get_inference_statistics("digits")) == {"digits": before + 1}
    everything = of(client.get_inference_statistics())
    assert everything.keys() == {"digits", "digits-http", "mixed", "mixed-http"}
    assert everything["digits"] == before + 1


def test_models_are_loaded_on_request_and_unload_by_themselves(client: triton.InferenceServerClient) -> None:
    client.load_model("digits")
    with pytest.raises(InferenceServerException) as refused:
        client.unload_model("digits")
    assert refused.value.status() == "501"


@MODELS
@BINARY_IN
@BINARY_OUT
def test_digits_are_inferred(
    client: triton.InferenceServerClient, model: str, binary_in: bool, binary_out: bool
) -> None:
    names = ["class", "probabilities"]
    result = client.infer(
        model,
        [digit(3, binary=binary_in)],
        outputs=[triton.InferRequestedOutput(name, binary_data=binary_out) for name in names],
        request_id="third",
    )
    response = result.get_response()
    assert (response["model_name"], response["id"]) == (model, "third")
    assert [output["name"] for output in response["outputs"]] == names
    is_binary = ["binary_data_size" in output.get("parameters", {}) for output in response["outputs"]]
    assert is_binary == [binary_out, binary_out]
    assert result.as_numpy("class").tolist() == [PREDICTED[3]]
    probabilities = result.as_numpy("probabilities")
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (1, 10)
    assert probabilities.argmax() == PREDICTED[3]


@pytest.mark.parametrize("model", ["mixed", "mixed-http"])
@BINARY_IN
@BINARY_OUT
def test_several_inputs_of_different_types_are_inferred(
    client: triton.InferenceServerClient, model: str, binary_in: bool, binary_out: bool
) -> None:
    ids, _, total = mixed(5, rows=3)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("echo", "sum")]
    result = client.infer(model, mixed_inputs(5, 3, binary=binary_in), outputs=outputs)
    np.testing.assert_array_equal(result.as_numpy("echo"), ids)
    np.testing.assert_array_equal(result.as_numpy("sum"), total)


@MODELS
def test_only_the_requested_outputs_come_back(client: triton.InferenceServerClient, model: str) -> None:
    result = client.infer(model, [digit(1)], outputs=[triton.InferRequestedOutput("class")])
    assert [output["name"] for output in result.get_response()["outputs"]] == ["class"]
    every = client.infer(model, [digit(1)]).get_response()
    assert [output["name"] for output in every["outputs"]] == ["class", "probabilities"]


@MODELS
@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_bodies_are_understood(
    client: triton.InferenceServerClient, model: str, algorithm: str
) -> None:
    result = client.infer(
        model,
        [digit(7)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert result.as_numpy("class").tolist() == [PREDICTED[7]]


@MODELS
def test_parameters_of_other_servers_are_survived(client: triton.InferenceServerClient, model: str) -> None:
    result = client.infer(
        model,
        [digit(2)],
        priority=1,
        timeout=20_000_000,
        parameters={"text": "a", "number": 3, "fraction": 1.5, "flag": True},
        headers={"x-mine": "yes"},
        query_params={"verbose": "1"},
    )
    assert result.as_numpy("class").tolist() == [PREDICTED[2]]


@MODELS
def test_asynchronous_calls_answer_each_its_own_input(client: triton.InferenceServerClient, model: str) -> None:
    pending = [client.async_infer(model, [digit(index)], request_id=str(index)) for index in range(32)]
    for index, answer in enumerate(pending):
        result = answer.get_result()
        assert result.get_response()["id"] == str(index)
        assert result.as_numpy("class").tolist() == [PREDICTED[index]]


@MODELS
def test_asyncio_calls_answer_each_its_own_input(gateway: Gateway, model: str) -> None:
    async def run() -> None:
        async with triton_aio.InferenceServerClient(gateway.address) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata(model))["name"] == model
            calls = (client.infer(model, [digit(index)], request_id=str(index)) for index in range(32))
            for index, result in enumerate(await asyncio.gather(*calls)):
                assert result.get_response()["id"] == str(index)
                assert result.as_numpy("class").tolist() == [PREDICTED[index]]

    asyncio.run(run())


@MODELS
def test_a_time_limit_in_the_request_is_kept(client: triton.InferenceServerClient, model: str) -> None:
    client.infer(model, [digit(0)])
    with pytest.raises(InferenceServerException) as late:
        client.infer(model, [digit(0)], timeout=1000)
    # Refused at once where the latency model already knows, otherwise cut off.
    assert late.value.status() in ("429", "504")


def test_a_client_that_gives_up_leaves_the_gateway_in_order(gateway: Gateway) -> None:
    with triton.InferenceServerClient(gateway.address, network_timeout=0.002) as hasty:
        with pytest.raises(Exception, match="timed out|[Tt]imeout"):
            hasty.infer("digits", [digit(0)])
    with triton.InferenceServerClient(gateway.address) as patient:
        assert patient.infer("digits", [digit(4)]).as_numpy("class").tolist() == [PREDICTED[4]]


def wrong(name: str, shape: list[int], datatype: str, values: np.ndarray) -> triton.InferInput:
    tensor = triton.InferInput(name, shape, datatype)
    tensor.set_data_from_numpy(values)
    return tensor


@MODELS
@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (wrong("pixel", [1, 64], "FP32", pixels(0)), 'has no input "pixel"; it expects: pixels'),
        (wrong("pixels", [1, 63], "FP32", pixels(0)[:, :63]), "shape [1,63] does not match [-1,64]"),
        (wrong("pixels", [1, 64], "INT32", pixels(0).astype(np.int32)), "datatype is INT32"),
    ],
    ids=["name", "shape", "datatype"],
)
def test_wrong_inputs_are_refused_in_a_sentence(
    client: triton.InferenceServerClient, model: str, tensor: triton.InferInput, sentence: str
) -> None:
    client.infer(model, [digit(0)])
    with pytest.raises(InferenceServerException) as refused:
        client.infer(model, [tensor])
    assert refused.value.status() == "400"
    assert sentence in refused.value.message()


def test_unknown_models_versions_and_outputs_are_refused(client: triton.InferenceServerClient) -> None:
    for arguments, status, sentence in [
        ({"model_name": "digit"}, "404", 'did you mean "digits"'),
        ({"model_name": "digits", "model_version": "9"}, "404", 'no version "9"'),
        ({"model_name": "digits", "outputs": [triton.InferRequestedOutput("label")]}, "400", 'no output "label"'),
    ]:
        with pytest.raises(InferenceServerException) as refused:
            client.infer(inputs=[digit(0)], **arguments)
        assert refused.value.status() == status
        assert sentence in refused.value.message()
    assert not client.is_model_ready("digit")


@MODELS
def test_shared_memory_is_refused(client: triton.InferenceServerClient, model: str) -> None:
    output = triton.InferRequestedOutput("class")
    output.set_shared_memory("region", 8)
    with pytest.raises(InferenceServerException) as refused:
        client.infer(model, [digit(0)], outputs=[output])
    assert refused.value.status() == "501"
