"""ResNet with bottleneck blocks (arXiv:1512.03385) as torchvision builds it: the stride sits in the
3x3 convolution. ResNet-50 has 25,557,032 parameters, ResNet-152 60,192,808.

No Python package ships ImageNet weights of these; `init_variables` draws some from a seed.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
from flax import linen as nn

from missile_jax.errors import ConfigError
from missile_jax.models.layers import (
    ConvNorm,
    Tree,
    conv_norm_tree,
    dense_params,
    random_variables,
)

STAGES = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Bottleneck(nn.Module):
    """[B, H, W, C] -> [B, H / stride, W / stride, 4 * width]."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = ConvNorm(self.width, 1, activation=nn.relu, name="conv1")(x)
        y = ConvNorm(
            self.width, 3, stride=self.stride, padding=1, activation=nn.relu, name="conv2"
        )(y)
        y = ConvNorm(4 * self.width, 1, name="conv3")(y)
        if x.shape != y.shape:
            x = ConvNorm(4 * self.width, 1, stride=self.stride, name="downsample")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """float32 [B, 224, 224, 3], normalised RGB -> logits [B, classes], before softmax.

    depth: 50, 101 or 152; any other raises ConfigError.
    """

    depth: int = 50
    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = ConvNorm(64, 7, stride=2, padding=3, activation=nn.relu, name="stem")(x)
        # flax declares no type for padding, and pyright takes that of its default.
        pad = ((1, 1), (1, 1))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=pad)  # pyright: ignore[reportArgumentType]
        for name, width, stride in _blocks(self.depth):
            x = Bottleneck(width, stride, name=name.replace(".", "_"))(x)
        return nn.Dense(self.classes, name="fc")(x.mean((1, 2)))


def init_variables(seed: int, depth: int = 50) -> Tree:
    """Random variables of a ResNet; the same for the same seed and depth.

    The last norm of each block is damped: a sum of 50 blocks would grow to 1e9 otherwise.
    """
    variables = random_variables(ResNet(depth), np.zeros((1, 224, 224, 3), np.float32), seed)
    for block in variables["params"].values():
        if "conv3" in block:
            block["conv3"]["norm"]["scale"] *= np.float32(0.25)
    return variables


def from_state_dict(state: Mapping[str, np.ndarray], depth: int = 50) -> Tree:
    """Variables from torchvision's state dict."""
    places = {"stem": ("conv1", "bn1")}
    for name, *_ in _blocks(depth):
        block = name.replace(".", "_")
        for i in (1, 2, 3):
            places[f"{block}/conv{i}"] = (f"{name}.conv{i}", f"{name}.bn{i}")
        if name.endswith(".0"):
            places[f"{block}/downsample"] = (f"{name}.downsample.0", f"{name}.downsample.1")
    params, stats = conv_norm_tree(state, places)
    params["fc"] = dense_params(state, "fc")
    return {"params": params, "batch_stats": stats}


def _blocks(depth: int) -> list[tuple[str, int, int]]:
    """(torchvision's name, width, stride) of each block."""
    if depth not in STAGES:
        raise ConfigError(f"ResNet depth={depth!r} is unknown; allowed: {sorted(STAGES)}")
    return [
        (f"layer{stage + 1}.{i}", 64 << stage, 2 if stage and i == 0 else 1)
        for stage, repeats in enumerate(STAGES[depth])
        for i in range(repeats)
    ]
