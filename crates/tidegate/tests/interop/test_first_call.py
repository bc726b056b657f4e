"""Each surface wakes a model of its own from zero, and the call that did is answered."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import grpc
import pytest
import requests
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc

from harness import Gateway, bundled, serving
from samples import DIGITS, PREDICTED, pixels

#: Of the imitated load, in seconds.
START = 1.0
SURFACES = ["v1", "v2-json", "v2-binary", "v2-grpc", "metadata"]


@pytest.fixture(scope="module")
def cold(folder: pathlib.Path) -> Iterator[Gateway]:
    arguments = ("--start-delay", f"{START}s")
    models = [bundled(surface, "digits", arguments=arguments) for surface in SURFACES]
    with serving("cold", models, folder) as running:
        yield running


def seconds(cold_start: str) -> float:
    return float(cold_start.removesuffix("s"))


def classes(body: dict) -> list[int]:
    """Of a V1 or V2 answer."""
    if "predictions" in body:
        return [prediction["class"] for prediction in body["predictions"]]
    return next(output["data"] for output in body["outputs"] if output["name"] == "class")


def check_one_wake(cold: Gateway, model: str) -> None:
    changes = [entry["decision"] for entry in cold.decisions(model)]
    changes = [(decision["from"], decision["to"]) for decision in changes if decision["from"] != decision["to"]]
    assert changes == [(0, 1)]


@pytest.mark.parametrize(
    ("surface", "path", "body"),
    [
        ("v1", "/v1/models/v1:predict", {"instances": [DIGITS[0]["pixels"]]}),
        (
            "v2-json",
            "/v2/models/v2-json/infer",
            {"inputs": [{"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": DIGITS[0]["pixels"]}]},
        ),
    ],
)
def test_json_wakes_a_model(cold: Gateway, surface: str, path: str, body: dict) -> None:
    assert cold.ready(surface) == 0
    answer = requests.post(cold.url + path, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert START <= seconds(answer.headers["x-tidegate-cold-start"]) <= answer.elapsed.total_seconds()
    assert classes(answer.json()) == [PREDICTED[0]]
    again = requests.post(cold.url + path, json=body, timeout=60)
    assert again.status_code == 200
    assert "x-tidegate-cold-start" not in again.headers
    check_one_wake(cold, surface)


def test_binary_tensors_wake_a_model(cold: Gateway) -> None:
    # A raw body: no JSON at all, the model's only input.
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": "0"}
    url = f"{cold.url}/v2/models/v2-binary/infer"
    answer = requests.post(url, data=pixels(0).tobytes(), headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    assert START <= seconds(answer.headers["x-tidegate-cold-start"]) <= answer.elapsed.total_seconds()
    check_one_wake(cold, "v2-binary")


def test_grpc_wakes_a_model(cold: Gateway) -> None:
    contents = oip.InferTensorContents(fp32_contents=DIGITS[0]["pixels"])
    tensor = oip.ModelInferRequest.InferInputTensor(
        name="pixels", datatype="FP32", shape=[1, 64], contents=contents
    )
    request = oip.ModelInferRequest(model_name="v2-grpc", inputs=[tensor])
    with grpc.insecure_channel(cold.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer, call = stub.ModelInfer.with_call(request, timeout=60)
    # Typed contents come back to who sent them.
    assert not answer.raw_output_contents
    assert list(answer.outputs[0].contents.int64_contents) == [PREDICTED[0]]
    metadata = dict(call.initial_metadata())
    assert seconds(metadata["x-tidegate-cold-start"]) >= START
    assert metadata["x-tidegate-batch-rows"] == "1"
    assert metadata["x-request-id"]
    check_one_wake(cold, "v2-grpc")


def test_a_question_for_metadata_wakes_a_model(cold: Gateway) -> None:
    answer = requests.get(f"{cold.url}/v2/models/metadata", timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["inputs"][0]["name"] == "pixels"
    check_one_wake(cold, "metadata")
