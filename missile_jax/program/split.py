"""Slicing: an equation too long for a quantum becomes several, and a concatenation.

Slices are taken along rows of the batch first, then rows of an image or a matrix, then output
channels: the first copies least. What cannot be sliced is left as it is and reported by the plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from jax import lax
from jax.extend import core as jex

from missile_jax.program.trace import bind_eqn, interpret, leave, shape_of

# Takes the equation's operands and the range [start, stop) of one output axis.
SliceFn = Callable[[list[Any], int, int], Any]

_ELEMENTWISE = frozenset(
    (
        "add sub mul div max min pow exp exp2 log log1p expm1 tanh logistic erf erf_inv erfc "
        "sqrt rsqrt cbrt sin cos tan neg sign floor ceil round abs select_n "
        "convert_element_type integer_pow square clamp and or xor not eq ne lt le gt ge "
        "is_finite"
    ).split()
)


def splitter(eqn: jex.JaxprEqn, parts: int) -> Callable[[list[Any]], list[Any]] | None:
    """A function that computes `eqn` in `parts` slices, or fewer where it is too small for them.

    Returns None for an equation that cannot be sliced.
    """
    if eqn.primitive.name == "scan":
        return _scan(eqn, parts)
    make = _MAKERS.get(eqn.primitive.name)
    if make is None and eqn.primitive.name in _ELEMENTWISE:
        make = _elementwise
    if make is None or parts < 2 or len(eqn.outvars) != 1:
        return None
    axes = make(eqn)
    out_shape = shape_of(eqn.outvars[0])
    axes = [(axis, run) for axis, run in axes if out_shape[axis] > 1]
    if not axes:
        return None
    # The first axis that is long enough; else the longest.
    axis, run = next(
        ((a, r) for a, r in axes if out_shape[a] >= parts),
        max(axes, key=lambda pair: out_shape[pair[0]]),
    )
    bounds = _bounds(out_shape[axis], parts)

    def split(operands: list[Any]) -> list[Any]:
        pieces = [run(operands, start, stop) for start, stop in bounds]
        return [lax.concatenate(pieces, axis)]

    return split


def _bounds(extent: int, parts: int) -> list[tuple[int, int]]:
    parts = min(parts, extent)
    edges = [extent * k // parts for k in range(parts + 1)]
    return list(itertools.pairwise(edges))


def _slice(x: Any, axis: int, start: int, stop: int) -> Any:
    return lax.slice_in_dim(x, start, stop, axis=axis)


def _conv(eqn: jex.JaxprEqn) -> list[tuple[int, SliceFn]]:
    p = eqn.params
    if p["batch_group_count"] != 1:
        return []
    lhs_spec, rhs_spec, out_spec = p["dimension_numbers"]
    groups = p["feature_group_count"]

    def batch(ops: list[Any], start: int, stop: int) -> Any:
        return bind_eqn(eqn, [_slice(ops[0], lhs_spec[0], start, stop), ops[1]])[0]

    def rows(ops: list[Any], start: int, stop: int) -> Any:
        # Output rows [start, stop) read the padded input rows from start*stride up to the last
        # window's end; padding is whatever of that lies outside of the input.
        extent = ops[0].shape[lhs_spec[2]]
        stride, (low, _) = p["window_strides"][0], p["padding"][0]
        window = (ops[1].shape[rhs_spec[2]] - 1) * p["rhs_dilation"][0] + 1
        first, last = start * stride - low, (stop - 1) * stride - low + window
        inside = min(max(first, 0), extent), min(max(last, 0), extent)
        padding = ((inside[0] - first, last - inside[1]), *p["padding"][1:])
        lhs = _slice(ops[0], lhs_spec[2], *inside)
        return bind_eqn(eqn, [lhs, ops[1]], padding=padding)[0]

    def channels(ops: list[Any], start: int, stop: int) -> Any:
        return bind_eqn(eqn, [ops[0], _slice(ops[1], rhs_spec[0], start, stop)])[0]

    axes: list[tuple[int, SliceFn]] = [(out_spec[0], batch)]
    plain = all(d == 1 for d in p["lhs_dilation"])
    if plain and len(out_spec) > 2 and _rows_touch_input(eqn):
        axes.append((out_spec[2], rows))
    if groups == 1:
        axes.append((out_spec[1], channels))
    elif groups == shape_of(eqn.outvars[0])[out_spec[1]] == shape_of(eqn.invars[0])[lhs_spec[1]]:

        def depthwise(ops: list[Any], start: int, stop: int) -> Any:
            lhs = _slice(ops[0], lhs_spec[1], start, stop)
            rhs = _slice(ops[1], rhs_spec[0], start, stop)
            return bind_eqn(eqn, [lhs, rhs], feature_group_count=stop - start)[0]

        axes.append((out_spec[1], depthwise))
    return axes


def _rows_touch_input(eqn: jex.JaxprEqn) -> bool:
    """Whether padding is smaller than a window, so that no output row lies in padding alone."""
    p = eqn.params
    low, high = p["padding"][0]
    kernel = shape_of(eqn.invars[1])[p["dimension_numbers"][1][2]]
    window = (kernel - 1) * p["rhs_dilation"][0] + 1
    return 0 <= low < window and 0 <= high < window


def _dot(eqn: jex.JaxprEqn) -> list[tuple[int, SliceFn]]:
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = eqn.params["dimension_numbers"]
    lhs_ndim, rhs_ndim = (len(shape_of(a)) for a in eqn.invars)
    lhs_free = [d for d in range(lhs_ndim) if d not in (*lhs_contract, *lhs_batch)]
    rhs_free = [d for d in range(rhs_ndim) if d not in (*rhs_contract, *rhs_batch)]

    def both(lhs_axis: int, rhs_axis: int) -> SliceFn:
        return lambda ops, start, stop: bind_eqn(
            eqn,
            [_slice(ops[0], lhs_axis, start, stop), _slice(ops[1], rhs_axis, start, stop)],
        )[0]

    def one(operand: int, axis: int) -> SliceFn:
        def run(ops: list[Any], start: int, stop: int) -> Any:
            sliced = list(ops)
            sliced[operand] = _slice(ops[operand], axis, start, stop)
            return bind_eqn(eqn, sliced)[0]

        return run

    # The output's axes are the batch axes, then what is free of lhs, then of rhs.
    axes = [(k, both(*pair)) for k, pair in enumerate(zip(lhs_batch, rhs_batch, strict=True))]
    axes += [(len(axes) + k, one(0, axis)) for k, axis in enumerate(lhs_free)]
    axes += [(len(axes) + k, one(1, axis)) for k, axis in enumerate(rhs_free)]
    return axes


def _elementwise(eqn: jex.JaxprEqn) -> list[tuple[int, SliceFn]]:
    shape = shape_of(eqn.outvars[0])
    shapes = [shape_of(a) for a in eqn.invars]
    if any(s not in (shape, ()) for s in shapes):
        return []

    def along(axis: int) -> SliceFn:
        def run(ops: list[Any], start: int, stop: int) -> Any:
            sliced = [
                _slice(x, axis, start, stop) if s == shape else x
                for x, s in zip(ops, shapes, strict=True)
            ]
            return bind_eqn(eqn, sliced)[0]

        return run

    return [(axis, along(axis)) for axis in range(len(shape))]


def _reduce(eqn: jex.JaxprEqn) -> list[tuple[int, SliceFn]]:
    if len(eqn.invars) != 1:
        return []
    kept = [d for d in range(len(shape_of(eqn.invars[0]))) if d not in eqn.params["axes"]]

    def along(axis: int) -> SliceFn:
        return lambda ops, start, stop: bind_eqn(eqn, [_slice(ops[0], axis, start, stop)])[0]

    return [(out_axis, along(axis)) for out_axis, axis in enumerate(kept)]


def _reduce_window(eqn: jex.JaxprEqn) -> list[tuple[int, SliceFn]]:
    p = eqn.params
    if len(eqn.invars) != 1:
        return []

    def along(axis: int) -> SliceFn:
        return lambda ops, start, stop: bind_eqn(eqn, [_slice(ops[0], axis, start, stop)])[0]

    return [
        (axis, along(axis))
        for axis, window in enumerate(p["window_dimensions"])
        if window == 1
        and p["window_strides"][axis] == 1
        and p["padding"][axis] == (0, 0)
        and p["base_dilation"][axis] == 1
    ]


_MAKERS: dict[str, Callable[[jex.JaxprEqn], list[tuple[int, SliceFn]]]] = {
    "conv_general_dilated": _conv,
    "dot_general": _dot,
    "reduce_sum": _reduce,
    "reduce_max": _reduce,
    "reduce_min": _reduce,
    "reduce_prod": _reduce,
    "reduce_window_max": _reduce_window,
    "reduce_window_min": _reduce_window,
    "reduce_window_sum": _reduce_window,
}


def _scan(eqn: jex.JaxprEqn, parts: int) -> Callable[[list[Any]], list[Any]] | None:
    """A scan in chunks of iterations; one iteration a chunk if `parts` asks for as many.

    A chunk of one iteration is opened, so that it can be cut and sliced inside.
    """
    p = eqn.params
    length, body = p["length"], p["jaxpr"].jaxpr
    if length < 2 or parts < 2:
        return None
    # How a scan names its groups differs between versions of JAX. What is stacked has one axis
    # more outside than inside; the rest is constants, then the carry.
    num_carry = _same_rank(eqn.outvars, body.outvars)
    num_consts = _same_rank(eqn.invars, body.invars) - num_carry
    bounds = _bounds(length, parts)
    if p["reverse"]:
        bounds.reverse()

    def split(operands: list[Any]) -> list[Any]:
        consts = operands[:num_consts]
        carry = list(operands[num_consts : num_consts + num_carry])
        xs = operands[num_consts + num_carry :]
        stacked: list[list[Any]] = []
        for start, stop in bounds:
            chunk = [_slice(x, 0, start, stop) for x in xs]
            if stop - start == 1:
                args = [*consts, *carry, *(lax.squeeze(x, (0,)) for x in chunk)]
                results = interpret(body, p["jaxpr"].consts, args, leave)
                ys = [lax.expand_dims(y, (0,)) for y in results[num_carry:]]
            else:
                results = bind_eqn(eqn, [*consts, *carry, *chunk], length=stop - start)
                ys = results[num_carry:]
            carry = list(results[:num_carry])
            stacked.append(ys)
        if p["reverse"]:
            stacked.reverse()
        return carry + [lax.concatenate(list(ys), 0) for ys in zip(*stacked, strict=True)]

    return split


def _same_rank(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    pairs = zip(outside, inside, strict=True)
    return sum(len(shape_of(a)) == len(shape_of(b)) for a, b in pairs)
