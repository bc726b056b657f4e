"""Inputs of the bundled models whose answers are known beforehand."""

from __future__ import annotations

import json

import numpy as np

from harness import EXAMPLES

DIGITS = json.loads((EXAMPLES / "digits-heldout.json").read_text())["samples"]
#: What the model says of each when it is run directly.
PREDICTED = [sample["predicted"] for sample in DIGITS]


def pixels(index: int) -> np.ndarray:
    """One held-out digit as a batch of one."""
    return np.array([DIGITS[index]["pixels"]], dtype=np.float32)


def mixed(index: int, rows: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`ids`, `weights` and the `sum` to be expected, all different for each index and row."""
    row = np.arange(rows, dtype=np.int64)[:, None]
    ids = np.concatenate([np.full((rows, 1), index, dtype=np.int64), row, row * 7 - index], axis=1)
    # Halves of small integers: every product and sum is exact in 32 bits.
    weights = np.concatenate([row + 0.5, np.full((rows, 1), 2.0), row - 1.5], axis=1).astype(np.float32)
    return ids, weights, (ids * weights).sum(axis=1, keepdims=True).astype(np.float32)
