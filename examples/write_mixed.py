#!/usr/bin/env python3
"""Write examples/models/mixed.onnx: a graph without weights that has several inputs of different types.

    ids INT64 [-1,3], weights FP32 [-1,3]  ->  sum FP32 [-1,1] = sum(ids * weights), echo INT64 [-1,3] = ids

Each output row depends on its own input row alone and says which one it was, so that a test sees at once when
rows were mixed up.

    pip install onnx
    python examples/write_mixed.py
"""

import pathlib

import onnx
from onnx import TensorProto, helper

MODEL = pathlib.Path(__file__).resolve().parent / "models" / "mixed.onnx"


def main() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["ids"], ["factors"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["factors", "weights"], ["products"]),
            helper.make_node("ReduceSum", ["products", "axes"], ["sum"], keepdims=1),
            helper.make_node("Identity", ["ids"], ["echo"]),
        ],
        "mixed",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 3]),
            helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["batch", 3]),
        ],
        [
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["batch", 1]),
            helper.make_tensor_value_info("echo", TensorProto.INT64, ["batch", 3]),
        ],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    opset = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="write_mixed.py")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, MODEL)


if __name__ == "__main__":
    main()
