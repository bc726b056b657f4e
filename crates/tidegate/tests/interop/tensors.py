"""Reads answers of the protocol over gRPC, raw or typed, whichever package brought the messages along."""

from __future__ import annotations

import numpy as np

#: Per datatype: its numpy counterpart and the field of typed contents that it is in.
TYPES = {
    "INT64": (np.int64, "int64_contents"),
    "FP32": (np.float32, "fp32_contents"),
    "FP64": (np.float64, "fp64_contents"),
}


def values(response: object) -> dict[str, np.ndarray]:
    """The outputs of a `ModelInferResponse` by name."""
    arrays = {}
    for index, output in enumerate(response.outputs):
        dtype, field = TYPES[output.datatype]
        if response.raw_output_contents:
            flat = np.frombuffer(response.raw_output_contents[index], dtype=dtype)
        else:
            flat = np.array(getattr(output.contents, field), dtype=dtype)
        arrays[output.name] = flat.reshape(tuple(output.shape))
    return arrays
