"""MobileNetV2 (arXiv:1801.04381) as torchvision builds it: 3,504,872 parameters."""

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

# expand, features, repeats, stride of the first
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_BLOCKS = tuple(
    (expand, features, stride if i == 0 else 1)
    for expand, features, repeats, stride in _STAGES
    for i in range(repeats)
)


class MobileNetV2(nn.Module):
    """float32 [B, 224, 224, 3], normalised RGB -> logits [B, classes], before softmax."""

    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = ConvNorm(32, 3, stride=2, padding=1, activation=nn.relu6, name="stem")(x)
        for i, (expand, features, stride) in enumerate(_BLOCKS):
            block = InvertedResidual(
                features, 3, stride, expand, same=False, epsilon=1e-5, name=f"block_{i}"
            )
            x = block(x)
        x = ConvNorm(1280, 1, activation=nn.relu6, name="head")(x)
        return nn.Dense(self.classes, name="classifier")(x.mean((1, 2)))


def from_state_dict(state: Mapping[str, np.ndarray]) -> Tree:
    """Variables from torchvision's state dict."""
    places = {"stem": ("features.0.0", "features.0.1"), "head": ("features.18.0", "features.18.1")}
    for i, (expand, *_) in enumerate(_BLOCKS):
        prefix, block, at = f"features.{i + 1}.conv", f"block_{i}", 0
        if expand != 1:
            places[f"{block}/expand"] = (f"{prefix}.0.0", f"{prefix}.0.1")
            at = 1
        places[f"{block}/depthwise"] = (f"{prefix}.{at}.0", f"{prefix}.{at}.1")
        places[f"{block}/project"] = (f"{prefix}.{at + 1}", f"{prefix}.{at + 2}")
    params, stats = conv_norm_tree(state, places)
    params["classifier"] = dense_params(state, "classifier.1")
    return {"params": params, "batch_stats": stats}
