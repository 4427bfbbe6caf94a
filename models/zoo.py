"""Networks by name, each with its weights, an example and a way in and out.

net = load("mobilenet")
net.answer(net.module.apply(net.variables, net.preprocess(photos()["coffee"])))  # "espresso 0.99"
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from safetensors.numpy import load_file

from missile_jax.errors import ConfigError
from missile_jax.models import (
    efficientnet,
    images,
    labels,
    minilm,
    mobilenet,
    resnet,
    squeezenet,
    text,
)
from missile_jax.models.layers import Tree, random_variables
from missile_jax.models.unpickle import load_numpy, load_torch
from missile_jax.models.weights import fetch

_LENGTH = 64


@dataclass(frozen=True, slots=True)
class ZooModel:
    """A network ready to run.

    module: linen module. Takes the items of a dict example as keyword arguments, any other example
        as its one argument.
    variables: pytree of float32 numpy arrays.
    example: an input with B = 1.
    preprocess: raw item (uint8 [H, W, 3] image, or a sentence) -> input with B = 1.
    answer: output with B = 1 -> words, such as "espresso 0.99". Classifiers give logits; softmax
        happens here. MiniLM answers with the nearest of `text.SENTENCES` and its cosine.

    `answer`, and `preprocess` of MiniLM, fetch labels or the tokenizer when first called.
    """

    name: str
    module: nn.Module
    variables: Tree = field(repr=False)
    example: Any = field(repr=False)
    preprocess: Callable[[Any], Any]
    answer: Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class _Entry:
    """How to make one model. trained: reads the published weights; None where there are none."""

    module: nn.Module
    example: Any
    preprocess: Callable[[Any], Any]
    trained: Callable[[], Tree] | None = None


def _image(side: int) -> np.ndarray:
    return np.zeros((1, side, side, 3), np.float32)


def _resnet(depth: int) -> _Entry:
    return _Entry(resnet.ResNet(depth), _image(224), images.for_torchvision)


_ENTRIES = {
    "squeezenet": _Entry(
        squeezenet.SqueezeNet(),
        _image(227),
        images.for_squeezenet,
        lambda: squeezenet.from_arrays(load_numpy(fetch("squeezenet"))),
    ),
    "mobilenet": _Entry(
        mobilenet.MobileNetV2(),
        _image(224),
        images.for_torchvision,
        lambda: mobilenet.from_state_dict(load_torch(fetch("mobilenet"))),
    ),
    "efficientnet": _Entry(
        efficientnet.EfficientNetLite0(),
        _image(224),
        images.for_efficientnet,
        lambda: efficientnet.from_state_dict(load_torch(fetch("efficientnet"))),
    ),
    "resnet50": _resnet(50),
    "resnet101": _resnet(101),
    "resnet152": _resnet(152),
    "minilm": _Entry(
        minilm.MiniLM(),
        {name: np.ones((1, _LENGTH), np.int32) for name in ("input_ids", "attention_mask")},
        lambda sentence: text.tokens([sentence], _LENGTH),
        lambda: minilm.from_tensors(load_file(fetch("minilm"))),
    ),
}


def names() -> tuple[str, ...]:
    """Every name that `load` takes."""
    return tuple(_ENTRIES)


def preprocessing(name: str) -> Callable[[Any], Any]:
    """`ZooModel.preprocess` of the network of this name, without its weights.

    Raises ConfigError for an unknown name.
    """
    return _entry(name).preprocess


def load(name: str, *, random_weights: bool = False, seed: int = 0) -> ZooModel:
    """The network of this name, with published weights unless `random_weights`.

    random_weights: draw the weights from `seed`; downloads nothing. The ResNets have no published
        weights in any package, so theirs are always drawn.
    Raises ConfigError for an unknown name, WeightsError if the weights cannot be had.
    """
    entry = _entry(name)
    if entry.trained is not None and not random_weights:
        variables = entry.trained()
    elif isinstance(entry.module, resnet.ResNet):
        variables = resnet.init_variables(seed, entry.module.depth)
    else:
        variables = random_variables(entry.module, entry.example, seed)
    answer = labels.best if name != "minilm" else _nearest(entry.module, variables)
    return ZooModel(name, entry.module, variables, entry.example, entry.preprocess, answer)


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        raise ConfigError(f"the zoo has no model {name!r}; it has: {', '.join(names())}")
    return _ENTRIES[name]


def _nearest(module: nn.Module, variables: Tree) -> Callable[[Any], str]:
    @functools.cache
    def known() -> np.ndarray:
        inputs = text.tokens(text.SENTENCES, _LENGTH)
        return np.asarray(jax.jit(module.apply)(variables, **inputs))

    def answer(embedding: Any) -> str:
        (row,) = np.asarray(embedding) @ known().T
        return f"{text.SENTENCES[row.argmax()]} {row.max():.2f}"

    return answer
