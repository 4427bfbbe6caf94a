"""What a compiled program asks of a memory: bytes and operations of each segment, and which
parameters a kernel could read through a table of granules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from missile_jax.program.bind import bind, parameter_leaves
from missile_jax.program.build import Builder
from missile_jax.program.costs import EstimatedCosts, bytes_of, operations
from missile_jax.program.plan import Plan, Segment
from missile_jax.program.trace import Traced, shape_of, trace
from missile_jax.spec import JaxDevice, Model

# A parameter on its way to a product: the values stay what they are.
_PASSES_ON = frozenset(("reshape", "transpose", "squeeze", "expand_dims", "copy", "rev"))


@dataclass(frozen=True, slots=True)
class TabledRead:
    """Parameter bytes that one product reads. flops_per_byte: of all that the product moves."""

    bytes: int
    flops_per_byte: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """One segment.

    bytes, flops: of one launch, by the compiler's cost analysis. bytes are what its fused kernels
    read and write, each operand once.
    tabled: reads of parameters by a `dot_general` or a 1x1 convolution, which a kernel can do by
    granules.
    """

    bytes: float
    flops: float
    tabled: tuple[TabledRead, ...]


def model_traffic(spec: Model, device: JaxDevice, segments: int) -> tuple[Traffic, ...]:
    """Of a model on its example, compiled for `device` in about so many segments; nothing is run.

    Raises whatever tracing and compilation raise.
    """
    fn, params = bind(spec)
    leaves, tree = parameter_leaves(spec.name, params)
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    traced = trace(fn, jax.tree.unflatten(tree, shapes), spec.example)
    costs = EstimatedCosts()
    whole_ns = sum(costs.cost_ns(eqn) for eqn in traced.jaxpr.eqns)
    builder = Builder(device, costs, max(1, whole_ns // segments), profile=False)
    inputs = [np.asarray(leaf) for leaf in jax.tree.leaves(spec.example)]
    plan = builder.build(traced, [*leaves, *traced.hoisted], inputs, segmented=True)
    return traffic(traced, plan)


def traffic(traced: Traced, plan: Plan) -> tuple[Traffic, ...]:
    """Of each of the plan's segments, in order. The plan was compiled from `traced`."""
    tabled = _tabled_reads(traced)
    return tuple(_of_segment(segment, tabled) for segment in plan.segments)


def _of_segment(segment: Segment, tabled: dict[int, TabledRead]) -> Traffic:
    cost: dict[str, float] = segment.executable.call.cost_analysis()  # pyright: ignore[reportFunctionMemberAccess]
    reads = tuple(tabled[k] for k in segment.params if k in tabled)
    read = sum(one.bytes for one in reads)
    # A compiler that copies a parameter into another layout reads it more than once, never less.
    moved = max(float(cost.get("bytes accessed", 0.0)), float(read))
    return Traffic(moved, max(0.0, float(cost.get("flops", 0.0))), reads)


def _tabled_reads(traced: Traced) -> dict[int, TabledRead]:
    """By parameter leaf. One that several products read is what the first of them reads."""
    jaxpr = traced.jaxpr.jaxpr
    origin: dict[Any, int] = {v: k for k, v in enumerate(jaxpr.invars[: traced.num_params])}
    reads: dict[int, TabledRead] = {}
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if (
            name in _PASSES_ON
            and not isinstance(eqn.invars[0], jex.Literal)
            and eqn.invars[0] in origin
        ):
            origin[eqn.outvars[0]] = origin[eqn.invars[0]]
        if name != "dot_general" and not (name == "conv_general_dilated" and _is_pointwise(eqn)):
            continue
        moved = sum(bytes_of(v.aval) for v in (*eqn.invars, *eqn.outvars))
        for operand in eqn.invars:
            if not isinstance(operand, jex.Literal) and operand in origin:
                read = TabledRead(bytes_of(operand.aval), operations(eqn) / moved)
                reads.setdefault(origin[operand], read)
    return reads


def _is_pointwise(eqn: jex.JaxprEqn) -> bool:
    numbers = eqn.params["dimension_numbers"]
    window = [shape_of(eqn.invars[1])[axis] for axis in numbers.rhs_spec[2:]]
    return math.prod(window) == 1 and eqn.params["feature_group_count"] == 1
