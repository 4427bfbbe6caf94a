"""The 1000 ImageNet classes in words."""

from __future__ import annotations

import functools
import json

import numpy as np

from missile_jax.models.weights import fetch


@functools.cache
def imagenet_labels() -> tuple[str, ...]:
    """The name of each class, in the order of the classifiers' outputs."""
    return tuple(json.loads(fetch("imagenet-labels").read_text(encoding="utf-8")))


def probabilities(logits: np.ndarray) -> np.ndarray:
    """[B, classes] -> float64 [B, classes]: softmax."""
    logits = np.asarray(logits, np.float64)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def best(logits: np.ndarray) -> str:
    """[1, 1000] -> the likeliest class and its probability, such as "espresso 0.99"."""
    (row,) = probabilities(logits)
    return f"{imagenet_labels()[row.argmax()]} {row.max():.2f}"
