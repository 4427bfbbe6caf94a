"""A small convolutional net in plain JAX, which every server of `serving` can run."""

from __future__ import annotations

from itertools import pairwise

import jax
import numpy as np

CHANNELS = (3, 16, 32, 64)
CLASSES = 10


def convnet(params: dict[str, list], x: jax.Array) -> jax.Array:
    """Logits [B, 10] of x [B, 32, 32, 3]: three 3x3 convolutions of stride 2, a mean, a matrix."""
    for kernel in params["kernels"]:
        x = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x)
    return x.mean((1, 2)) @ params["dense"][0]


def parameters(seed: int = 0) -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape).astype(np.float32)

    return {
        "kernels": [normal(3, 3, a, b) for a, b in pairwise(CHANNELS)],
        "dense": [normal(CHANNELS[-1], CLASSES)],
    }
