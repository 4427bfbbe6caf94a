"""Equations that a backend compiles badly, said in another way.

Applied when a program is compiled, so that everything before sees the program as it was written.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend import core as jex

from missile_jax.program.trace import Rule, leave, shape_of


def rule_for(platform: str) -> Rule:
    """What to replace when compiling for `platform`."""
    return _cpu if platform == "cpu" else leave


def _cpu(eqn: jex.JaxprEqn, operands: list[Any]) -> list[Any] | None:
    # XLA's CPU backend has only naive loops for grouped convolutions: as a sum of shifted products,
    # which it fuses into one loop, a depthwise one runs many times faster.
    if eqn.primitive.name == "conv_general_dilated" and _depthwise(eqn):
        return [_taps(eqn, *operands)]
    return None


def _depthwise(eqn: jex.JaxprEqn) -> bool:
    p = eqn.params
    lhs_spec, rhs_spec, out_spec = p["dimension_numbers"]
    channels = shape_of(eqn.invars[0])[lhs_spec[1]]
    return (
        p["feature_group_count"] == channels == shape_of(eqn.outvars[0])[out_spec[1]] > 1
        and p["batch_group_count"] == 1
        and all(d == 1 for d in p["lhs_dilation"])
        and lhs_spec == out_spec
        and shape_of(eqn.invars[1])[rhs_spec[1]] == 1
        and eqn.invars[0].aval.dtype == eqn.outvars[0].aval.dtype  # type: ignore[attr-defined]
    )


def _taps(eqn: jex.JaxprEqn, lhs: Any, rhs: Any) -> Any:
    p = eqn.params
    dtype = lhs.dtype
    if dtype in (jnp.bfloat16, jnp.float16):
        # XLA sums a convolution of these in float32.
        lhs, rhs = lhs.astype(jnp.float32), rhs.astype(jnp.float32)
    lhs_spec, rhs_spec, _ = p["dimension_numbers"]
    spatial, kernel_axes = lhs_spec[2:], rhs_spec[2:]
    padding = [(0, 0, 0)] * lhs.ndim
    for axis, (low, high) in zip(spatial, p["padding"], strict=True):
        padding[axis] = (low, high, 0)
    padded = lax.pad(lhs, lax.full_like(lhs, 0, shape=()), padding)
    out_shape = shape_of(eqn.outvars[0])
    total: Any = None
    for tap in itertools.product(*(range(rhs.shape[axis]) for axis in kernel_axes)):
        start, limit, stride = [0] * lhs.ndim, list(padded.shape), [1] * lhs.ndim
        at = [0] * rhs.ndim
        for k, axis in enumerate(spatial):
            start[axis] = tap[k] * p["rhs_dilation"][k]
            stride[axis] = p["window_strides"][k]
            limit[axis] = start[axis] + (out_shape[axis] - 1) * stride[axis] + 1
            at[kernel_axes[k]] = tap[k]
        ends = [
            a + 1 if axis in kernel_axes else n
            for axis, (a, n) in enumerate(zip(at, rhs.shape, strict=True))
        ]
        weight = lax.reshape(lax.slice(rhs, at, ends), (rhs.shape[rhs_spec[0]],))
        window = lax.slice(padded, start, limit, stride)
        product = window * lax.broadcast_in_dim(weight, window.shape, (lhs_spec[1],))
        total = product if total is None else total + product
    return lax.convert_element_type(total, dtype)
