"""SqueezeNet 1.1 (arXiv:1602.07360): 1,235,496 parameters, no batch norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from missile_jax.models.layers import Tree

_WIDTHS = (16, 16, 32, 32, 48, 48, 64, 64)
_POOL_BEFORE = (0, 2, 4)


class Fire(nn.Module):
    """[B, H, W, C] -> [B, H, W, 8 * squeeze]."""

    squeeze: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(self.squeeze, (1, 1), name="squeeze1x1")(x))
        narrow = nn.relu(nn.Conv(4 * self.squeeze, (1, 1), name="expand1x1")(x))
        wide = nn.relu(nn.Conv(4 * self.squeeze, (3, 3), name="expand3x3")(x))
        return jnp.concatenate([narrow, wide], axis=-1)


class SqueezeNet(nn.Module):
    """float32 [B, 227, 227, 3], BGR minus the mean -> logits [B, classes], before softmax."""

    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(64, (3, 3), strides=2, padding="SAME", name="conv1")(x))
        for i, width in enumerate(_WIDTHS):
            if i in _POOL_BEFORE:
                x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="VALID")
            x = Fire(width, name=f"fire{i + 2}")(x)
        # Unlike the paper's, the trained network has no ReLU here.
        x = nn.Conv(self.classes, (1, 1), name="conv10")(x)
        return x.mean((1, 2))


def from_arrays(arrays: Mapping[str, Sequence[np.ndarray]]) -> Tree:
    """Variables from {"conv1" or "fire2/squeeze1x1": (kernel HWIO, bias)}."""
    params: Tree = {}
    for name, (kernel, bias) in arrays.items():
        *above, last = name.split("/")
        tree = params
        for part in above:
            tree = tree.setdefault(part, {})
        tree[last] = {"kernel": np.ascontiguousarray(kernel), "bias": bias}
    return {"params": params}
