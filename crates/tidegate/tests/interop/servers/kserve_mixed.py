"""A KServe SDK server with the function of examples/models/mixed.onnx, over V1, V2 and gRPC.

    python kserve_mixed.py --http_port PORT --grpc_port PORT

`mixed` declares its tensors; `bare` is the same and declares nothing, as most custom models.
"""

from __future__ import annotations

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput


class Mixed(Model):
    """`sum` = Σ ids·weights over a row, `echo` = `ids`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.load()

    def predict(self, payload: dict | InferRequest, headers: dict | None = None) -> dict | InferResponse:
        if isinstance(payload, dict):
            return self.predict_instances(payload)
        tensors = {tensor.name: tensor.as_numpy() for tensor in payload.inputs}
        if tensors.keys() != {"ids", "weights"}:
            raise InvalidInput(f"expected ids and weights, got {sorted(tensors)}")
        ids = tensors["ids"]
        outputs = []
        for name, datatype, values in [("sum", "FP32", total(ids, tensors["weights"])), ("echo", "INT64", ids)]:
            output = InferOutput(name, list(values.shape), datatype)
            output.set_data_from_numpy(values, binary_data=payload.use_binary_outputs)
            outputs.append(output)
        return InferResponse(
            response_id=payload.id,
            model_name=self.name,
            infer_outputs=outputs,
            use_binary_outputs=payload.use_binary_outputs,
        )

    def predict_instances(self, payload: dict) -> dict:
        if "instances" not in payload:
            raise InvalidInput('expected "instances"')
        instances = payload["instances"]
        ids = np.array([instance["ids"] for instance in instances], dtype=np.int64)
        weights = np.array([instance["weights"] for instance in instances], dtype=np.float32)
        rows = zip(ids.tolist(), total(ids, weights).tolist(), strict=True)
        return {"predictions": [{"echo": row, "sum": value} for row, value in rows]}


class Declared(Mixed):
    def get_input_types(self) -> list[dict]:
        return [
            {"name": "ids", "datatype": "INT64", "shape": [-1, 3]},
            {"name": "weights", "datatype": "FP32", "shape": [-1, 3]},
        ]

    def get_output_types(self) -> list[dict]:
        return [
            {"name": "sum", "datatype": "FP32", "shape": [-1, 1]},
            {"name": "echo", "datatype": "INT64", "shape": [-1, 3]},
        ]


def total(ids: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (ids * weights).sum(axis=1, keepdims=True).astype(np.float32)


if __name__ == "__main__":
    ModelServer().start([Declared("mixed"), Mixed("bare")])
