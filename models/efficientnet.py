"""EfficientNet-Lite0: EfficientNet-B0 (arXiv:1905.11946) with ReLU6 and without squeeze-excite;
4,652,008 parameters."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
from flax import linen as nn

from missile_jax.models.layers import (
    ConvNorm,
    InvertedResidual,
    Tree,
    conv_norm_tree,
    dense_params,
)

_EPSILON = 1e-3
# expand, kernel, features, repeats, stride of the first
_STAGES = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)
_BLOCKS = tuple(
    (expand, kernel, features, stride if i == 0 else 1)
    for expand, kernel, features, repeats, stride in _STAGES
    for i in range(repeats)
)


class EfficientNetLite0(nn.Module):
    """float32 [B, 224, 224, 3], RGB in about -1..1 -> logits [B, classes], before softmax."""

    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = ConvNorm(
            32, 3, stride=2, padding="SAME", epsilon=_EPSILON, activation=nn.relu6, name="stem"
        )(x)
        for i, (expand, kernel, features, stride) in enumerate(_BLOCKS):
            block = InvertedResidual(
                features, kernel, stride, expand, same=True, epsilon=_EPSILON, name=f"block_{i}"
            )
            x = block(x)
        x = ConvNorm(1280, 1, epsilon=_EPSILON, activation=nn.relu6, name="head")(x)
        return nn.Dense(self.classes, name="classifier")(x.mean((1, 2)))


def from_state_dict(state: Mapping[str, np.ndarray]) -> Tree:
    """Variables from the state dict of the published torch port."""
    places = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for i, (expand, *_) in enumerate(_BLOCKS):
        prefix, block = f"_blocks.{i}.", f"block_{i}"
        if expand != 1:
            places[f"{block}/expand"] = (prefix + "_expand_conv", prefix + "_bn0")
        places[f"{block}/depthwise"] = (prefix + "_depthwise_conv", prefix + "_bn1")
        places[f"{block}/project"] = (prefix + "_project_conv", prefix + "_bn2")
    params, stats = conv_norm_tree(state, places)
    params["classifier"] = dense_params(state, "_fc")
    return {"params": params, "batch_stats": stats}
