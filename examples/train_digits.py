#!/usr/bin/env python3
"""Train the bundled digit classifier and write it, its held-out samples and two sample requests.

The data are scikit-learn's handwritten digits: 1797 images of 8x8 pixels, each an integer 0..16. A quarter is
held out, stratified by class, before anything is fitted. The scaling to 0..1 is part of the written graph, so
a client sends pixels as they are. Everything is seeded: the same library versions write the same files.

    pip install scikit-learn onnx
    python examples/train_digits.py
"""

import json
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

EXAMPLES = pathlib.Path(__file__).resolve().parent
MODEL = EXAMPLES / "models" / "digits.onnx"
HELD_OUT = EXAMPLES / "digits-heldout.json"
REQUESTS = EXAMPLES / "requests"

SEED = 20
HIDDEN = (128, 64)
PIXEL_MAX = 16.0
# The oldest operator set and file format that have all we use, so that most runtimes can read the file.
OPSET = 13
IR_VERSION = 8


def train(pixels: np.ndarray, labels: np.ndarray) -> MLPClassifier:
    network = MLPClassifier(
        hidden_layer_sizes=HIDDEN,
        alpha=1e-3,
        max_iter=400,
        random_state=SEED,
    )
    return network.fit(pixels / PIXEL_MAX, labels)


def to_onnx(network: MLPClassifier) -> onnx.ModelProto:
    """The fitted network as a graph of Mul, Gemm, Relu, Softmax and ArgMax with a symbolic batch dimension."""
    weights = [numpy_helper.from_array(np.float32(1.0 / PIXEL_MAX), "scale")]
    nodes = [helper.make_node("Mul", ["pixels", "scale"], ["layer0"])]
    last = len(network.coefs_) - 1
    for i, (coefficients, intercepts) in enumerate(zip(network.coefs_, network.intercepts_)):
        weights.append(numpy_helper.from_array(coefficients.astype(np.float32), f"weight{i}"))
        weights.append(numpy_helper.from_array(intercepts.astype(np.float32), f"bias{i}"))
        product = "logits" if i == last else f"product{i}"
        nodes.append(helper.make_node("Gemm", [f"layer{i}", f"weight{i}", f"bias{i}"], [product]))
        if i < last:
            nodes.append(helper.make_node("Relu", [product], [f"layer{i + 1}"]))
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    nodes.append(helper.make_node("ArgMax", ["logits"], ["class"], axis=1, keepdims=0))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])],
        [
            helper.make_tensor_value_info("class", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
        ],
        weights,
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="train_digits.py")
    onnx.checker.check_model(model, full_check=True)
    return model


def write_json(path: pathlib.Path, text: str) -> None:
    json.loads(text)
    path.write_text(text + "\n")


def write_held_out(pixels: np.ndarray, labels: np.ndarray, predicted: np.ndarray) -> None:
    """One sample a line: what is sent, the true class, and the class this very model gives."""
    lines = []
    for row, label, guess in zip(pixels, labels, predicted):
        sample = {"pixels": row.astype(int).tolist(), "label": int(label), "predicted": int(guess)}
        lines.append(json.dumps(sample, separators=(",", ":")))
    write_json(HELD_OUT, '{"samples":[\n' + ",\n".join(lines) + "\n]}")


def write_requests(pixels: np.ndarray) -> None:
    """The first held-out sample as a body for each protocol."""
    row = pixels[0].astype(int).tolist()
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, len(row)], "data": row}
    write_json(REQUESTS / "digits-v2.json", json.dumps({"inputs": [tensor]}))
    write_json(REQUESTS / "digits-v1.json", json.dumps({"instances": [row]}))


def main() -> None:
    digits = load_digits()
    fit_pixels, held_pixels, fit_labels, held_labels = train_test_split(
        digits.data, digits.target, test_size=0.25, stratify=digits.target, random_state=SEED
    )
    network = train(fit_pixels, fit_labels)
    model = to_onnx(network)
    predicted, _ = ReferenceEvaluator(model).run(None, {"pixels": held_pixels.astype(np.float32)})
    assert (predicted == network.predict(held_pixels / PIXEL_MAX)).all(), "the graph is not the fitted network"

    onnx.save(model, MODEL)
    write_held_out(held_pixels, held_labels, predicted)
    write_requests(held_pixels)
    right = int((predicted == held_labels).sum())
    print(f"{MODEL.name}: {MODEL.stat().st_size} bytes, {right} of {len(held_labels)} held-out samples right")


if __name__ == "__main__":
    main()
