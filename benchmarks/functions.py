"""Small models as the functions of a serverless load: fine-tunes of a few architectures.

A perceptron reads every weight once, so that its copy takes as long as its compute; the other two
use theirs many times over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from missile_jax.models.layers import ConvNorm, random_variables
from missile_jax.models.minilm import MiniLM

_LENGTH = 64


class Perceptron(nn.Module):
    """[B, 512] -> [B, 512]: three dense layers, the inner ones 1,024 wide."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(2):
            x = nn.relu(nn.Dense(1024)(x))
        return nn.Dense(512)(x)


class Convolutional(nn.Module):
    """[B, 32, 32, 3] -> [B, 100]: seven 3x3 convolutions, 64 to 256 channels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layers = ((64, 1), (64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (256, 1))
        for features, stride in layers:
            x = ConvNorm(features, 3, stride=stride, padding=1, activation=nn.relu)(x)
        return nn.Dense(100)(x.mean((1, 2)))


@dataclass(frozen=True, slots=True)
class Architecture:
    """What functions are fine-tunes of. example: an input with B = 1."""

    name: str
    module: nn.Module
    example: Any

    def base(self) -> Any:
        """The variables that fine-tunes begin with."""
        return random_variables(self.module, self.example, 0)


def fine_tune(base: Any, seed: int) -> Any:
    """`base` with every weight up to a tenth larger or smaller: equal to no other's."""
    rng = np.random.default_rng(seed)

    def tuned(leaf: np.ndarray) -> np.ndarray:
        return leaf * (0.9 + 0.2 * rng.random(leaf.shape, np.float32)).astype(leaf.dtype)

    return jax.tree.map(tuned, base)


ENCODER = Architecture(
    "encoder",
    MiniLM(vocabulary=1000, positions=_LENGTH, width=192, layers=3, heads=4, hidden=768),
    {name: np.ones((1, _LENGTH), np.int32) for name in ("input_ids", "attention_mask")},
)
PERCEPTRON = Architecture("perceptron", Perceptron(), np.ones((1, 512), np.float32))
CONVOLUTIONAL = Architecture("convolutional", Convolutional(), np.ones((1, 32, 32, 3), np.float32))
