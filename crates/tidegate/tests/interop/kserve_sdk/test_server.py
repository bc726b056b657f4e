"""The KServe SDK's server as the upstream: one corpus of requests sent directly and through the gateway, by each of its
protocols, merged and one by one.

Differences that are accepted, all others fail:

- KServe fails V2 REST calls without `id`; through the gateway they are answered, unless handed on as they came.
- `null` of an answer is absent, and so are the `parameters` of gRPC outputs that tell of binary data in REST bodies.
- Over V1 nothing tells datatypes, and no output is asked for: FP32 comes back as FP64, all outputs come, in the order
  that the server has them.
- What the gateway decodes it checks first, with its own sentence; a 422 comes back as a 400, a 500 as a 502.
- V1 calls for a server of another protocol need a model that declares its inputs.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import requests
from kserve import InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc

from harness import Gateway, serving
from samples import mixed
from tensors import values

from upstream import SERVER, KServe

MODELS = pytest.mark.parametrize("model", ["mixed", "bare"])
Route = tuple[str, str]


def inputs(index: int, rows: int = 1) -> list[dict]:
    ids, weights, _ = mixed(index, rows)
    return [
        {"name": "ids", "shape": list(ids.shape), "datatype": "INT64", "data": ids.ravel().tolist()},
        {"name": "weights", "shape": list(weights.shape), "datatype": "FP32", "data": weights.ravel().tolist()},
    ]


def nested(index: int, rows: int) -> list[dict]:
    ids, weights, _ = mixed(index, rows)
    ids_input, weights_input = inputs(index, rows)
    return [ids_input | {"data": ids.tolist()}, weights_input | {"data": weights.tolist()}]


CORPUS = {
    "one row": {"id": "1", "inputs": inputs(1)},
    "three rows": {"id": "three", "inputs": inputs(2, 3)},
    "nested data": {"id": "n", "inputs": nested(3, 2)},
    "inputs in another order": {"id": "o", "inputs": inputs(4, 2)[::-1]},
    "parameters": {"id": "p", "inputs": inputs(5), "parameters": {"text": "a", "number": 3, "flag": True}},
}


def infer(base: str, model: str, body: dict) -> requests.Response:
    return requests.post(f"{base}/v2/models/{model}/infer", json=body, timeout=60)


def predict(base: str, model: str, body: dict) -> requests.Response:
    return requests.post(f"{base}/v1/models/{model}:predict", json=body, timeout=60)


def without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def comparable(answer: requests.Response, route: Route) -> dict:
    assert answer.status_code == 200, answer.text
    body = without_nulls(answer.json())
    if route[0] == "v1":
        body["outputs"].sort(key=lambda output: output["name"])
        for output in body["outputs"]:
            output["datatype"] = {"FP32": "FP64"}.get(output["datatype"], output["datatype"])
    return body


@MODELS
@pytest.mark.parametrize("case", CORPUS)
def test_json_is_answered_as_by_the_server_itself(
    kserve_server: KServe, route: Route, model: str, case: str
) -> None:
    direct = comparable(infer(kserve_server.url, model, CORPUS[case]), route)
    assert comparable(infer(kserve_server.routes[route].url, model, CORPUS[case]), route) == direct


def test_a_call_without_an_id_is_answered_where_it_is_not_handed_on(kserve_server: KServe, route: Route) -> None:
    body = {"inputs": inputs(6)}
    assert infer(kserve_server.url, "mixed", body).status_code == 500
    through = infer(kserve_server.routes[route].url, "mixed", body)
    if route == ("v2-http", "off"):
        assert (through.status_code, through.json()["code"]) == (502, "upstream_bad_response")
    else:
        assert through.status_code == 200, through.text
        assert "id" not in through.json()


@MODELS
def test_v1_is_answered_as_by_the_server_itself(kserve_server: KServe, route: Route, model: str) -> None:
    ids, weights, _ = mixed(7, rows=2)
    rows = zip(ids.tolist(), weights.tolist(), strict=True)
    body = {"instances": [{"ids": row, "weights": weight} for row, weight in rows]}
    direct = predict(kserve_server.url, model, body)
    through = predict(kserve_server.routes[route].url, model, body)
    assert direct.status_code == 200, direct.text
    if model == "bare" and route[0] != "v1":
        assert through.status_code == 400
        assert "says nothing of its inputs" in through.json()["error"]
    else:
        assert through.status_code == 200, through.text
        assert through.json() == direct.json()


@MODELS
def test_binary_tensors_are_answered_as_by_the_server_itself(
    kserve_server: KServe, route: Route, model: str
) -> None:
    ids, weights, total = mixed(8, rows=2)
    tensors = [InferInput("ids", [2, 3], "INT64"), InferInput("weights", [2, 3], "FP32")]
    tensors[0].set_data_from_numpy(ids, binary_data=True)
    tensors[1].set_data_from_numpy(weights, binary_data=True)
    request = InferRequest(model, tensors, request_id="b", parameters={"binary_data_output": True})
    body, json_length = request.to_rest()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(json_length)}
    for base in (kserve_server.url, kserve_server.routes[route].url):
        answer = requests.post(f"{base}/v2/models/{model}/infer", data=body, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        json_length = int(answer.headers["inference-header-content-length"])
        # The sums first or last, as 32 or 64 bits: see above.
        width = np.float64 if route[0] == "v1" and base != kserve_server.url else np.float32
        parts = {ids.tobytes(), total.astype(width).tobytes()}
        assert answer.content[json_length:] in {b"".join(sorted(parts, reverse=order)) for order in (True, False)}


def message(model: str, index: int, *, raw: bool) -> oip.ModelInferRequest:
    ids, weights, _ = mixed(index, rows=2)
    request = oip.ModelInferRequest(model_name=model, id=str(index))
    for name, datatype, array in [("ids", "INT64", ids), ("weights", "FP32", weights)]:
        tensor = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw:
            request.raw_input_contents.append(array.tobytes())
        elif datatype == "INT64":
            tensor.contents.int64_contents.extend(array.ravel())
        else:
            tensor.contents.fp32_contents.extend(array.ravel())
    return request


@MODELS
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_grpc_is_answered_as_by_the_server_itself(
    kserve_server: KServe, route: Route, model: str, raw: bool
) -> None:
    def ask(address: str) -> oip.ModelInferResponse:
        with grpc.insecure_channel(address) as channel:
            stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
            return stub.ModelInfer(message(model, 9, raw=raw), timeout=60)

    direct, through = ask(kserve_server.grpc), ask(kserve_server.routes[route].address)
    assert (through.id, through.model_name) == (direct.id, direct.model_name)
    assert bool(through.raw_output_contents) == bool(direct.raw_output_contents) == raw
    expected = values(direct)
    assert expected.keys() == values(through).keys()
    for name, array in values(through).items():
        np.testing.assert_array_equal(array, expected[name])
        assert route[0] == "v1" or array.dtype == expected[name].dtype


@pytest.mark.parametrize(
    ("body", "directly", "handed_on", "decoded"),
    [
        ({"id": "x", "inputs": inputs(1)[:1]}, 400, 400, 400),
        ({"id": "x", "inputs": [inputs(1)[0] | {"data": [1]}, inputs(1)[1]]}, 500, 502, 400),
        ({}, 422, 400, 400),
    ],
    ids=["an input is missing", "too little data", "no inputs"],
)
def test_errors_become_what_is_promised(
    kserve_server: KServe, route: Route, body: dict, directly: int, handed_on: int, decoded: int
) -> None:
    assert infer(kserve_server.url, "mixed", body).status_code == directly
    answer = infer(kserve_server.routes[route].url, "mixed", body)
    assert answer.status_code == (handed_on if route == ("v2-http", "off") else decoded), answer.text
    assert isinstance(answer.json()["error"], str)
    assert answer.json()["code"] == answer.headers["x-tidegate-reason"]


def test_metadata_is_that_of_the_server(kserve_server: KServe, route: Route) -> None:
    for model in ("mixed", "bare"):
        direct = requests.get(f"{kserve_server.url}/v2/models/{model}", timeout=30).json()
        through = requests.get(f"{kserve_server.routes[route].url}/v2/models/{model}", timeout=30).json()
        assert through == direct | {"versions": []}


def test_32_clients_each_get_their_own_answer(kserve_server: KServe, route: Route) -> None:
    gateway = kserve_server.routes[route]

    def call(index: int) -> None:
        ids, _, total = mixed(index, rows=1 + index % 2)
        answer = infer(gateway.url, "mixed", {"id": str(index), "inputs": inputs(index, rows=len(ids))})
        assert answer.status_code == 200, answer.text
        assert answer.json()["id"] == str(index)
        outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
        assert outputs == {"echo": ids.ravel().tolist(), "sum": total.ravel().tolist()}

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(call, range(200)))


def test_the_server_is_started_from_zero(folder: object) -> None:
    command = [sys.executable, str(SERVER), "--http_port", "{port}", "--grpc_port", "{port2}"]
    model = {
        "name": "mixed",
        "fleet": {"process": {"command": command}},
        "protocol": "v2-http",
        "deadline": {"default": "120s"},
        "scaling": {"min": 0, "max": 1},
    }
    with serving("kserve-from-zero", [model], folder) as gateway:
        check_first_call(gateway)


def check_first_call(gateway: Gateway) -> None:
    ids, _, total = mixed(1)
    answer = infer(gateway.url, "mixed", {"inputs": inputs(1)})
    assert answer.status_code == 200, answer.text
    assert float(answer.headers["x-tidegate-cold-start"].removesuffix("s")) > 0.5
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    assert outputs == {"echo": ids.ravel().tolist(), "sum": total.ravel().tolist()}
