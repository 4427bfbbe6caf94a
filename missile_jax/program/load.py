"""From a Model to a Program: every declared shape traced, compiled and profiled."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from missile_jax.errors import MissileError, ModelLoadError, one_line
from missile_jax.program.bind import bind, parameter_leaves
from missile_jax.program.build import Builder
from missile_jax.program.compile import wanted_orders
from missile_jax.program.form import Form
from missile_jax.program.plan import Plan, Segment
from missile_jax.program.program import Leaf, Program
from missile_jax.program.trace import trace
from missile_jax.spec import JaxDevice, Model, ModelFn, ModelInfo, Priority, PyTree, TensorSpec


def load(spec: Model, builder: Builder, *, segment_all: bool = False) -> Program:
    """Compiles `spec` for the builder's device.

    segment_all: cut latency-sensitive models into segments too, not only best-effort ones.

    Raises:
        ModelLoadError: the model could not be bound, traced, compiled or run on its example.
    """
    try:
        return _load(spec, builder, segment_all)
    except MissileError:
        raise
    except Exception as error:
        raise ModelLoadError(
            f"model {spec.name!r} could not be loaded: {one_line(error)}"
        ) from error


def _load(spec: Model, builder: Builder, segment_all: bool) -> Program:
    fn, params = bind(spec)
    own, tree = parameter_leaves(spec.name, params)
    example, in_tree = jax.tree.flatten(spec.example)
    examples = [np.asarray(x) for x in example]
    inputs = _input_leaves(spec, in_tree, examples)
    outputs, batched = _output_leaves(spec, fn, params, in_tree, inputs)

    plans: dict[tuple[int, int], Plan] = {}
    hoisted = _Pool(builder.device)
    form: Form | None = None
    kept: list[jax.Array] = []
    shapes = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in own])
    for rows in spec.buckets:
        for length in spec.lengths or (0,):
            sized = [
                _resize(leaf, x, rows, length) for leaf, x in zip(inputs, examples, strict=True)
            ]
            traced = trace(fn, shapes, jax.tree.unflatten(in_tree, sized))
            if form is None:
                orders = wanted_orders(traced.jaxpr, len(own), builder.device)
                form = Form.of(traced, own, orders)
                kept = [_own_copy(x, builder.device) for x in form.arrays(own)]
            at = [hoisted.place(x) for x in traced.hoisted]
            plan = builder.build(
                form.taken_by(traced),
                [*kept, *(hoisted.arrays[k] for k in at)],
                sized,
                segmented=segment_all or spec.priority is Priority.BEST_EFFORT,
            )
            plans[rows, length] = _moved(plan, len(kept), at)
    leaves = (*kept, *hoisted.arrays)
    out_tree = next(iter(plans.values())).out_tree
    info = ModelInfo(
        name=spec.name,
        priority=Priority.of(spec.priority),
        tenant=spec.tenant,
        slo=spec.slo,
        buckets=tuple(spec.buckets),
        lengths=None if spec.lengths is None else tuple(spec.lengths),
        inputs=tuple(_tensor(leaf, True) for leaf in inputs),
        outputs=tuple(_tensor(leaf, batched) for leaf in outputs),
        parameter_bytes=sum(x.nbytes for x in leaves),
        timeout_ms=spec.timeout_ms,
    )
    return Program(info, leaves, plans, in_tree, out_tree, inputs, outputs, batched)


class _Pool:
    """Arrays that a model closes over at any of its shapes, on the device, equal ones once."""

    def __init__(self, device: JaxDevice) -> None:
        self._device = device
        self._sources: list[Any] = []
        self.arrays: list[jax.Array] = []

    def place(self, array: Any) -> int:
        for k, source in enumerate(self._sources):
            if source is array or _equal(source, array):
                return k
        self._sources.append(array)
        self.arrays.append(_own_copy(array, self._device))
        return len(self._sources) - 1


def _own_copy(array: Any, device: JaxDevice) -> jax.Array:
    """On `device`; the caller may change or donate its own.

    A CPU takes numpy arrays that are aligned as they are, `may_alias=False` or not.
    """
    if isinstance(array, np.ndarray):
        array = np.array(array)
    return jax.device_put(array, device, may_alias=False)


def _equal(a: Any, b: Any) -> bool:
    if (
        a.shape != b.shape
        or a.dtype != b.dtype
        or jax.dtypes.issubdtype(a.dtype, jax.dtypes.extended)
    ):
        return False
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def _moved(plan: Plan, num_own: int, at: list[int]) -> Plan:
    """`plan` with its k-th hoisted array at place `at[k]` of the pool."""
    if at == list(range(len(at))):
        return plan

    def move(segment: Segment) -> Segment:
        params = (i if i < num_own else num_own + at[i - num_own] for i in segment.params)
        return replace(segment, params=tuple(params))

    return replace(plan, whole=move(plan.whole), segments=tuple(map(move, plan.segments)))


def _input_leaves(spec: Model, tree: Any, examples: list[np.ndarray]) -> tuple[Leaf, ...]:
    if not examples:
        raise ModelLoadError(f"model {spec.name!r}: the example holds no array")
    names = _names(jax.tree.unflatten(tree, examples), "input")
    for name, x in zip(names, examples, strict=True):
        if x.ndim == 0 or x.shape[0] != examples[0].shape[0]:
            raise ModelLoadError(
                f"model {spec.name!r}: input {name!r} of the example has shape {x.shape}; "
                "every input needs a first axis B, the same for all"
            )
    length = max((x.shape[1] for x in examples if x.ndim > 1), default=0)
    if spec.lengths and not length:
        raise ModelLoadError(
            f"model {spec.name!r}: lengths are declared, but no input has an axis 1"
        )
    return tuple(
        Leaf(
            name,
            x.shape,
            np.dtype(jax.dtypes.canonicalize_dtype(x.dtype)),
            (1,) if spec.lengths and x.ndim > 1 and x.shape[1] == length else (),
        )
        for name, x in zip(names, examples, strict=True)
    )


def _output_leaves(
    spec: Model, fn: ModelFn, params: PyTree, in_tree: Any, inputs: tuple[Leaf, ...]
) -> tuple[tuple[Leaf, ...], bool]:
    """The outputs, and whether all have the batch on their first axis.

    Found by asking for the output shapes at two batch sizes and two lengths.
    """

    def result(rows: int, length: int) -> PyTree:
        sized = [jax.ShapeDtypeStruct(leaf.sized(rows, length), leaf.dtype) for leaf in inputs]
        return jax.eval_shape(fn, params, jax.tree.unflatten(in_tree, sized))

    def other(rows: int, length: int) -> list[jax.ShapeDtypeStruct]:
        try:
            return jax.tree.leaves(result(rows, length))
        except Exception:  # noqa: BLE001 - a model of one fixed size may raise anything here
            return here

    rows, lengths = spec.buckets[-1], spec.lengths or (0,)
    length = lengths[-1]
    declared = result(rows, length)
    here = jax.tree.leaves(declared)
    if not here:
        raise ModelLoadError(f"model {spec.name!r}: it returns no array")
    other_rows = other(rows + 1, length)
    second = lengths[0] if len(lengths) > 1 else length + 1
    other_length = other(rows, second) if spec.lengths else here
    batched = all(
        a.shape[:1] == (rows,) and b.shape[:1] == (rows + 1,) and a.shape[1:] == b.shape[1:]
        for a, b in zip(here, other_rows, strict=True)
    )
    leaves = tuple(
        Leaf(
            name,
            a.shape,
            np.dtype(a.dtype),
            # An axis that only depends on the length, such as L/2, can not be cut to a request's.
            tuple(
                k
                for k in range(len(a.shape))
                if (a.shape[k], b.shape[k]) == (length, second) and length != second
            ),
        )
        for name, a, b in zip(_names(declared, "output"), here, other_length, strict=True)
    )
    return leaves, batched


def _resize(leaf: Leaf, example: np.ndarray, rows: int, length: int) -> np.ndarray:
    """The example repeated and cut to a bucket's shape."""
    shape = leaf.sized(rows, length)
    tiles = [math.ceil(want / have) for want, have in zip(shape, example.shape, strict=True)]
    return np.tile(example, tiles)[tuple(slice(n) for n in shape)].astype(leaf.dtype)


def _names(tree: PyTree, bare: str) -> list[str]:
    named = []
    for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]:
        keys = [
            str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path
        ]
        named.append(".".join(keys) or bare)
    return named if len(set(named)) == len(named) else [f"{bare}_{k}" for k in range(len(named))]


def _tensor(leaf: Leaf, batched: bool) -> TensorSpec:
    shape = tuple(
        None if (axis == 0 and batched) or axis in leaf.length_axes else size
        for axis, size in enumerate(leaf.shape)
    )
    return TensorSpec(leaf.name, shape, leaf.dtype.name)
