"""MLServer with scikit-learn models as the upstream: one corpus of requests sent directly and through the gateway,
by both of its protocols, merged and one by one.

Differences that are accepted, all others fail:

- MLServer makes up an `id` where the client gave none; through the gateway a call without id has none, unless it
  is handed on as it came.
- Empty `parameters` of an answer are absent.
- What the gateway decodes it checks first: bad tensors, tensors unlike the model's declaration and versions that
  are not there get its own status and sentence. MLServer answers 422 or 500 to some of them; through the gateway a
  422 of its is a 400, and a 500 a 502.
"""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
import requests
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc

from harness import CROWD, ROOT, Gateway, Process, free_port, serving, static, wait_for
from samples import DIGITS, pixels
from tensors import values

VENV = ROOT / ".venv/mlserver/bin"
SERVERS = pathlib.Path(__file__).parent / "servers"
#: How the gateway reaches MLServer, and whether it merges.
ROUTES = [("v2-http", "auto"), ("v2-http", "off"), ("v2-grpc", "auto"), ("v2-grpc", "off")]
MODELS = pytest.mark.parametrize("model", ["forest", "bare"])


@dataclass
class MlServer:
    pid: int
    http: str
    grpc: str
    routes: dict[tuple[str, str], Gateway]


@pytest.fixture(scope="module")
def repository(folder: pathlib.Path) -> pathlib.Path:
    repository = folder / "repository"
    subprocess.run([VENV / "python", SERVERS / "train_forest.py", repository], check=True, timeout=120)
    return repository


@pytest.fixture(scope="module")
def mlserver(repository: pathlib.Path, folder: pathlib.Path) -> Iterator[MlServer]:
    http, rpc, metrics = free_port(), free_port(), free_port()
    env = ports(str(http), str(rpc), str(metrics))
    server = Process("mlserver", [str(VENV / "mlserver"), "start", str(repository)], folder, env)
    try:
        wait_for("MLServer", lambda: is_ready(server, http))
        with ExitStack() as stack:
            gateways = [stack.enter_context(in_front(*route, http, rpc, folder)) for route in ROUTES]
            for gateway in gateways:
                gateway.wait_until_ready("forest")
                gateway.wait_until_ready("bare")
            routes = dict(zip(ROUTES, gateways, strict=True))
            yield MlServer(server.pid, f"http://127.0.0.1:{http}", f"127.0.0.1:{rpc}", routes)
    finally:
        server.stop()


def ports(http: str, rpc: str, metrics: str) -> dict[str, str]:
    return {
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": http,
        "MLSERVER_GRPC_PORT": rpc,
        "MLSERVER_METRICS_PORT": metrics,
        "MLSERVER_PARALLEL_WORKERS": "0",
    }


def is_ready(server: Process, port: int) -> bool:
    server.check_alive()
    url = f"http://127.0.0.1:{port}/v2/models"
    return all(requests.get(f"{url}/{model}/ready", timeout=5).ok for model in ("forest", "bare"))


def in_front(
    protocol: str, batching: str, http: int, rpc: int, folder: pathlib.Path
) -> AbstractContextManager[Gateway]:
    port = rpc if protocol == "v2-grpc" else http
    models = [static(model, port, protocol, batching) for model in ("forest", "bare")]
    return serving(f"mlserver-{protocol}-{batching}", models, folder)


def infer(base: str, model: str, body: dict, version: str = "") -> requests.Response:
    version = version and f"/versions/{version}"
    return requests.post(f"{base}/v2/models/{model}{version}/infer", json=body, timeout=60)


def rows(*indices: int, **changes: object) -> dict:
    data = [DIGITS[index]["pixels"] for index in indices]
    return {"name": "pixels", "shape": [len(data), 64], "datatype": "FP32", "data": data} | changes


PREDICT, PROBA = {"name": "predict"}, {"name": "predict_proba"}
CORPUS = {
    "one row": {"inputs": [rows(0)]},
    "flat data": {"inputs": [rows(0, data=DIGITS[0]["pixels"])]},
    "an id": {"id": "mine", "inputs": [rows(1)]},
    "three rows": {"id": "three", "inputs": [rows(2, 3, 4)]},
    "both outputs": {"inputs": [rows(5)], "outputs": [PREDICT, PROBA]},
    "outputs in another order": {"inputs": [rows(6, 7)], "outputs": [PROBA, PREDICT]},
    "parameters of the request": {"inputs": [rows(8)], "parameters": {"content_type": "np"}},
    "parameters of the input": {"inputs": [rows(9, parameters={"content_type": "np"})]},
    "parameters of an output": {"inputs": [rows(1)], "outputs": [PREDICT | {"parameters": {"content_type": "np"}}]},
}
#: What only a server that declared nothing is given.
UNDECLARED = {
    "whole numbers": {"inputs": [rows(1, datatype="INT64")]},
    "doubles": {"inputs": [rows(1, 2, datatype="FP64")]},
    "another name": {"inputs": [rows(1, name="x")]},
}


def comparable(answer: requests.Response, body: dict) -> dict:
    assert answer.status_code == 200, answer.text
    seen = {key: value for key, value in answer.json().items() if value not in ({}, None)}
    if "id" not in body:
        seen.pop("id", None)
    return seen


@pytest.mark.parametrize("route", ROUTES, ids="-".join)
@pytest.mark.parametrize(
    ("model", "case"),
    [("forest", case) for case in CORPUS] + [("bare", case) for case in CORPUS | UNDECLARED],
)
def test_json_is_answered_as_by_mlserver_itself(
    mlserver: MlServer, route: tuple[str, str], model: str, case: str
) -> None:
    body = (CORPUS | UNDECLARED)[case]
    direct = comparable(infer(mlserver.http, model, body), body)
    for version in ("", "v3"):
        through = comparable(infer(mlserver.routes[route].url, model, body, version), body)
        assert through == direct


@dataclass
class Wrong:
    body: dict
    directly: int
    #: Where the gateway hands the body on as it came, and where it looks at it.
    handed_on: int
    decoded: int
    version: str = ""


WRONG = {
    "unknown output": Wrong({"inputs": [rows(0)], "outputs": [{"name": "x"}]}, 400, 400, 400),
    "too little data": Wrong({"inputs": [rows(0, data=[1, 2])]}, 500, 502, 400),
    "no inputs": Wrong({}, 422, 400, 400),
    "unknown datatype": Wrong({"inputs": [rows(0, datatype="FP99")]}, 422, 400, 400),
    "63 columns": Wrong({"inputs": [rows(0, shape=[1, 63], data=[0] * 63)]}, 500, 502, 400),
    "unknown version": Wrong({"inputs": [rows(0)]}, 404, 404, 404, version="v4"),
    "not what was declared": Wrong({"inputs": [rows(0, datatype="INT64")]}, 200, 200, 400),
}


@pytest.mark.parametrize("route", ROUTES, ids="-".join)
@pytest.mark.parametrize("case", WRONG)
def test_errors_become_what_is_promised(mlserver: MlServer, route: tuple[str, str], case: str) -> None:
    wrong = WRONG[case]
    assert infer(mlserver.http, "forest", wrong.body, wrong.version).status_code == wrong.directly
    answer = infer(mlserver.routes[route].url, "forest", wrong.body, wrong.version)
    expected = wrong.handed_on if route == ("v2-http", "off") else wrong.decoded
    assert answer.status_code == expected, answer.text
    if expected != 200:
        assert answer.json()["code"] == answer.headers["x-tidegate-reason"]
    # Whoever calls next is not made to pay.
    good = infer(mlserver.routes[route].url, "forest", {"inputs": [rows(0)]})
    assert good.status_code == 200, good.text


def typed(model: str, index: int, **changes: object) -> oip.ModelInferRequest:
    contents = oip.InferTensorContents(fp32_contents=DIGITS[index]["pixels"])
    tensor = oip.ModelInferRequest.InferInputTensor(
        name="pixels", datatype="FP32", shape=[1, 64], contents=contents
    )
    return oip.ModelInferRequest(**{"model_name": model, "id": str(index), "inputs": [tensor]} | changes)


def raw(model: str, index: int) -> oip.ModelInferRequest:
    request = typed(model, index)
    request.inputs[0].ClearField("contents")
    request.raw_input_contents.append(pixels(index).tobytes())
    return request


def both_outputs(model: str, index: int) -> oip.ModelInferRequest:
    names = ("predict_proba", "predict")
    outputs = [oip.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in names]
    return typed(model, index, outputs=outputs)


@MODELS
@pytest.mark.parametrize("route", ROUTES, ids="-".join)
@pytest.mark.parametrize("make", [typed, raw, both_outputs])
def test_grpc_is_answered_as_by_mlserver_itself(
    mlserver: MlServer, route: tuple[str, str], model: str, make: Callable[[str, int], oip.ModelInferRequest]
) -> None:
    def ask(address: str) -> oip.ModelInferResponse:
        with grpc.insecure_channel(address) as channel:
            return service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(make(model, 7), timeout=60)

    direct, through = ask(mlserver.grpc), ask(mlserver.routes[route].address)
    assert bool(through.raw_output_contents) == bool(direct.raw_output_contents)
    assert (through.model_name, through.model_version, through.id) == (model, "v3", "7")
    assert [(output.name, output.datatype, output.shape) for output in through.outputs] == [
        (output.name, output.datatype, output.shape) for output in direct.outputs
    ]
    for name, expected in values(direct).items():
        np.testing.assert_array_equal(values(through)[name], expected)


@pytest.mark.parametrize("route", ROUTES, ids="-".join)
def test_metadata_is_that_of_mlserver(mlserver: MlServer, route: tuple[str, str]) -> None:
    for model in ("forest", "bare"):
        direct = requests.get(f"{mlserver.http}/v2/models/{model}", timeout=30).json()
        del direct["parameters"]
        through = requests.get(f"{mlserver.routes[route].url}/v2/models/{model}", timeout=30).json()
        assert through == direct


@pytest.mark.parametrize("route", [("v2-http", "auto"), ("v2-grpc", "auto")], ids="-".join)
def test_64_clients_are_merged_and_each_gets_its_own_answer(mlserver: MlServer, route: tuple[str, str]) -> None:
    gateway = mlserver.routes[route]
    whole = infer(mlserver.http, "forest", {"inputs": [rows(*range(len(DIGITS)))], "outputs": [PROBA]}).json()
    expected = np.array(whole["outputs"][0]["data"]).reshape(-1, 10)

    def call(index: int) -> None:
        answer = infer(gateway.url, "forest", {"inputs": [rows(index)], "outputs": [PROBA]})
        assert answer.status_code == 200, answer.text
        np.testing.assert_array_equal(answer.json()["outputs"][0]["data"], expected[index])

    rows_before, calls_before = gateway.batched("forest")

    def callers() -> None:
        with ThreadPoolExecutor(64) as pool:
            list(pool.map(call, range(len(DIGITS))))

    gateway.in_a_crowd("forest", mlserver.pid, callers)
    rows_after, calls_after = gateway.batched("forest")
    # Each batch saves all its rows but one a call of their own.
    saved = (rows_after - rows_before) - (calls_after - calls_before)
    assert saved > CROWD / 2


def test_mlserver_is_started_from_zero_by_a_v1_call(repository: pathlib.Path, folder: pathlib.Path) -> None:
    command = [str(VENV / "mlserver"), "start", str(repository / "forest")]
    model = {
        "name": "forest",
        "fleet": {"process": {"command": command, "env": ports("{port2}", "{port}", "{port3}")}},
        "protocol": "v2-grpc",
        "deadline": {"default": "120s"},
        "scaling": {"min": 0, "max": 1},
    }
    with serving("from-zero", [model], folder) as gateway:
        body = {"instances": [DIGITS[index]["pixels"] for index in range(3)]}
        answer = requests.post(f"{gateway.url}/v1/models/forest:predict", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        assert float(answer.headers["x-tidegate-cold-start"].removesuffix("s")) > 0.5
        direct = infer(gateway.url, "forest", {"inputs": [rows(0, 1, 2)]}).json()["outputs"][0]["data"]
        assert answer.json()["predictions"] == [[label] for label in direct]
