"""The small model of the overhead benchmarks: 784-512-512-10, about 0.08 ms a call."""

from __future__ import annotations

from itertools import pairwise

import jax
import numpy as np

SIZES = (784, 512, 512, 10)


def mlp(params: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    """Logits [B, 10] of x [B, 784]."""
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias[None])
    weight, bias = params[-1]
    return x @ weight + bias[None]


def parameters(seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(0, 0.05, (a, b)).astype(np.float32), np.zeros(b, np.float32))
        for a, b in pairwise(SIZES)
    ]
