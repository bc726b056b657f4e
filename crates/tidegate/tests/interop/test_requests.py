"""Plain `requests`: V1 and V2 by hand, what headers say, and what errors look like."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import requests

from harness import EXAMPLES, Gateway
from samples import DIGITS, PREDICTED, mixed

MODELS = pytest.mark.parametrize("model", ["digits", "digits-http"])


def v1(gateway: Gateway, model: str, body: object, **options: object) -> requests.Response:
    return requests.post(f"{gateway.url}/v1/models/{model}:predict", json=body, timeout=60, **options)


def v2(gateway: Gateway, model: str, body: object, **options: object) -> requests.Response:
    return requests.post(f"{gateway.url}/v2/models/{model}/infer", json=body, timeout=60, **options)


def tensor(index: int) -> dict:
    return {"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": DIGITS[index]["pixels"]}


@MODELS
def test_v1_answers_row_by_row(gateway: Gateway, model: str) -> None:
    answer = v1(gateway, model, {"instances": [DIGITS[index]["pixels"] for index in range(5)]})
    assert answer.status_code == 200, answer.text
    predictions = answer.json()["predictions"]
    assert [prediction["class"] for prediction in predictions] == PREDICTED[:5]
    assert [np.argmax(prediction["probabilities"]) for prediction in predictions] == PREDICTED[:5]


@MODELS
def test_v1_answers_column_by_column(gateway: Gateway, model: str) -> None:
    answer = v1(gateway, model, {"inputs": [DIGITS[index]["pixels"] for index in range(5)]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"]["class"] == PREDICTED[:5]


@pytest.mark.parametrize("model", ["mixed", "mixed-http"])
def test_v1_instances_may_name_several_inputs(gateway: Gateway, model: str) -> None:
    ids, weights, total = mixed(3, rows=2)
    instances = [
        {"ids": row.tolist(), "weights": weight.tolist()} for row, weight in zip(ids, weights, strict=True)
    ]
    answer = v1(gateway, model, {"instances": instances})
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == [
        {"echo": row.tolist(), "sum": value.tolist()} for row, value in zip(ids, total, strict=True)
    ]


@MODELS
def test_v2_echoes_the_id_and_tells_where_the_time_went(gateway: Gateway, model: str) -> None:
    answer = v2(gateway, model, {"id": "mine", "inputs": [tensor(9)]}, headers={"x-request-id": "trace-9"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["id"], body["model_name"]) == ("mine", model)
    outputs = {output["name"]: output for output in body["outputs"]}
    assert outputs["class"]["data"] == [PREDICTED[9]]
    assert outputs["probabilities"]["shape"] == [1, 10]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "trace-9"
    assert int(answer.headers["x-tidegate-batch-rows"]) >= 1
    parts = re.findall(r"(\w+);dur=([0-9.]+)", answer.headers["server-timing"])
    assert [name for name, _ in parts] == ["queue", "batch", "upstream", "gateway"]
    spent = {name: float(millis) for name, millis in parts}
    assert spent["upstream"] >= 9, "the model takes 9 ms a row"
    assert sum(spent.values()) <= answer.elapsed.total_seconds() * 1e3


def test_the_sample_requests_are_answered(gateway: Gateway) -> None:
    for file, send in [("digits-v1.json", v1), ("digits-v2.json", v2)]:
        body = json.loads((EXAMPLES / "requests" / file).read_text())
        answer = send(gateway, "digits", body)
        assert answer.status_code == 200, (file, answer.text)


def test_curls_default_content_type_is_accepted_where_nothing_is_ambiguous(gateway: Gateway) -> None:
    """`curl -d` says application/x-www-form-urlencoded if not told otherwise."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    for path, body in [
        ("/v1/models/digits:predict", {"instances": [DIGITS[0]["pixels"]]}),
        ("/v2/models/digits/infer", {"inputs": [tensor(0)]}),
    ]:
        answer = requests.post(gateway.url + path, data=json.dumps(body), headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("path", "body", "status", "reason", "sentence"),
    [
        ("/v1/models/digits:predict", "{", 400, "bad_json", "not valid JSON"),
        ("/v1/models/digits:predict", "{}", 400, "bad_request", "instances"),
        ("/v1/models/digits:predict", '{"instances":[[1,2]]}', 400, "bad_request", "pixels"),
        ("/v2/models/digits/infer", "{", 400, "bad_json", "not valid JSON"),
        ("/v2/models/digits/infer", "{}", 400, "bad_request", 'missing field "inputs"'),
        (
            "/v2/models/digits/infer",
            '{"inputs":[{"name":"pixels","shape":[1,64],"datatype":"FP32","data":[1,2]}]}',
            400,
            "bad_tensor",
            "needs 64 values, got 2",
        ),
        ("/v2/models/digit/infer", '{"inputs":[]}', 404, "model_not_found", 'did you mean "digits"'),
        ("/v1/models/digit:predict", "{}", 404, "model_not_found", 'did you mean "digits"'),
        ("/v2/models/digits/explain", "{}", 404, "route_not_found", "there is nothing at"),
        ("/v2/models/digits/generate", "{}", 501, "unsupported", "generate"),
        ("/v2/models/digits", "{}", 405, "method_not_allowed", "GET"),
    ],
)
def test_errors_are_sentences_with_a_reason_and_an_id(
    gateway: Gateway, path: str, body: str, status: int, reason: str, sentence: str
) -> None:
    headers = {"content-type": "application/json", "x-request-id": "wrong-1"}
    answer = requests.post(gateway.url + path, data=body, headers=headers, timeout=60)
    assert answer.status_code == status, answer.text
    assert answer.headers["x-tidegate-reason"] == reason
    assert answer.headers["x-request-id"] == "wrong-1"
    assert sentence in answer.json()["error"]
    assert answer.json() | {"error": ""} == {"error": "", "code": reason, "request_id": "wrong-1"}


def test_a_passed_deadline_must_not_be_retried(gateway: Gateway) -> None:
    body = {"inputs": [tensor(0)]}
    answer = v2(gateway, "digits", body, headers={"x-request-timeout-ms": "0"})
    assert answer.status_code == 504, answer.text
    assert answer.headers["x-tidegate-reason"] == "deadline_exceeded"
    assert answer.headers["x-should-retry"] == "false"
