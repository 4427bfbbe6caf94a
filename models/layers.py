"""What several of the convolutional networks share. Axes: B rows, H height, W width, C channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

Tree = dict[str, Any]
Padding = str | int


class ConvNorm(nn.Module):
    """[B, H, W, C] -> [B, H', W', features]: convolution, batch norm with running statistics,
    activation.

    padding: "SAME" (TensorFlow's rule), or zeros on each side (torch's rule).
    """

    features: int
    kernel: int
    stride: int = 1
    padding: Padding = 0
    groups: int = 1
    epsilon: float = 1e-5
    activation: Callable[[jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=self.padding,
            feature_group_count=self.groups,
            use_bias=False,
            name="conv",
        )(x)
        x = nn.BatchNorm(use_running_average=True, epsilon=self.epsilon, name="norm")(x)
        return x if self.activation is None else self.activation(x)


class InvertedResidual(nn.Module):
    """[B, H, W, C] -> [B, H', W', features]: widen by `expand`, convolve by channel, project; the
    input is added where it has the output's shape (MobileNetV2, arXiv:1801.04381, section 3.3)."""

    features: int
    kernel: int
    stride: int
    expand: int
    same: bool
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.shape[-1] * self.expand
        y = x
        if self.expand != 1:
            y = ConvNorm(wide, 1, epsilon=self.epsilon, activation=nn.relu6, name="expand")(y)
        y = ConvNorm(
            wide,
            self.kernel,
            stride=self.stride,
            padding="SAME" if self.same else self.kernel // 2,
            groups=wide,
            epsilon=self.epsilon,
            activation=nn.relu6,
            name="depthwise",
        )(y)
        y = ConvNorm(self.features, 1, epsilon=self.epsilon, name="project")(y)
        return x + y if x.shape == y.shape else y


def conv_norm_variables(state: Mapping[str, np.ndarray], conv: str, norm: str) -> tuple[Tree, Tree]:
    """(params, batch_stats) of a ConvNorm from a torch state dict.

    conv, norm: prefixes of the convolution's and the batch norm's names.
    """
    params = {
        "conv": {"kernel": hwio(state[f"{conv}.weight"])},
        "norm": {"scale": state[f"{norm}.weight"], "bias": state[f"{norm}.bias"]},
    }
    stats = {"norm": {"mean": state[f"{norm}.running_mean"], "var": state[f"{norm}.running_var"]}}
    return params, stats


def conv_norm_tree(
    state: Mapping[str, np.ndarray], places: Mapping[str, tuple[str, str]]
) -> tuple[Tree, Tree]:
    """(params, batch_stats) of many ConvNorms.

    places: {"block_3/expand" in the Flax tree: (conv, norm) prefixes in the state dict}.
    """
    params: Tree = {}
    stats: Tree = {}
    for place, (conv, norm) in places.items():
        *above, last = place.split("/")
        pair = conv_norm_variables(state, conv, norm)
        for tree, leaf in zip((params, stats), pair, strict=True):
            for part in above:
                tree = tree.setdefault(part, {})
            tree[last] = leaf
    return params, stats


def dense_params(state: Mapping[str, np.ndarray], name: str) -> Tree:
    """{"kernel": [in, out], "bias": [out]} of a torch linear layer."""
    kernel = np.ascontiguousarray(state[f"{name}.weight"].T)
    return {"kernel": kernel, "bias": state[f"{name}.bias"]}


def hwio(kernel: np.ndarray) -> np.ndarray:
    """torch's [out, in, H, W] -> Flax's [H, W, in, out]."""
    return np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))


def random_variables(module: nn.Module, example: Any, seed: int) -> Tree:
    """Variables of the module's shapes, float32, drawn from `seed` without running the module.

    example: keyword arguments if a dict, else the one argument. Kernels are scaled to keep the
    variance of their inputs (He et al., arXiv:1502.01852); norms are near identity but not
    exactly, so that no term of the network can vanish.
    """
    rng = np.random.default_rng(seed)
    args, kwargs = ((), example) if isinstance(example, dict) else ((example,), {})
    shapes = jax.eval_shape(lambda key: module.init(key, *args, **kwargs), jax.random.key(0))

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        match path[-1].key:
            case "scale" | "var":
                values = rng.uniform(0.75, 1.25, leaf.shape)
            case "kernel":
                values = math.sqrt(2 / math.prod(leaf.shape[:-1])) * rng.standard_normal(leaf.shape)
            case _:
                values = 0.05 * rng.standard_normal(leaf.shape)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)
