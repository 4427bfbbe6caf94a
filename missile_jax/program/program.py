"""A model ready to run: one plan for each declared input shape, and the way in and out of it."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from missile_jax._native import stack_rows
from missile_jax.errors import InvalidInputError, UnsupportedShapeError
from missile_jax.program.plan import Plan
from missile_jax.program.transfers import BY_XLA, Transfers
from missile_jax.spec import ModelInfo, Priority, PyTree

# Shapes that a program keeps what it knows of; clients choose them.
_MOST_FITS = 4096


@dataclass(frozen=True, slots=True)
class Leaf:
    """One array of the inputs or outputs.

    shape: of the example, [B, ...].
    length_axes: axes that follow the bucket's sequence length.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    length_axes: tuple[int, ...]

    def sized(self, rows: int, length: int) -> tuple[int, ...]:
        """The shape at B = `rows` and L = `length`."""
        if not self.length_axes:
            return (rows, *self.shape[1:])
        return tuple(
            rows if axis == 0 else length if axis in self.length_axes else size
            for axis, size in enumerate(self.shape)
        )

    def nbytes(self, rows: int, length: int) -> int:
        """The bytes at that shape."""
        return math.prod(self.sized(rows, length)) * self.dtype.itemsize


class Fit(NamedTuple):
    """What is known of all requests of one shape.

    rows: B. length: the bucket. actual_length: before padding; both 0 without sequences.
    plan: the smallest that holds one of them.
    least_ns: device time that one adds at least: its part of the batch that is best for it.
    input_bytes, output_bytes: without padding.
    """

    rows: int
    length: int
    actual_length: int
    plan: Plan
    least_ns: int
    input_bytes: int
    output_bytes: int


class Inputs(NamedTuple):
    """A request's inputs as a program takes them.

    leaves: [B, ...], copied, padded to the length bucket of `fit`.
    """

    leaves: Sequence[np.ndarray]
    fit: Fit


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """What `load` makes of a Model.

    leaves: parameters on the device, hoisted arrays behind them; empty once something else keeps
        them.
    plans: by (B, L); L is 0 where no lengths are declared.
    batched: whether every output has the batch on its first axis. Otherwise a request must fill its
        bucket exactly, and shares it with nobody.
    transfers: how inputs come to the device, and results back.
    """

    info: ModelInfo
    leaves: tuple[jax.Array, ...]
    plans: dict[tuple[int, int], Plan]
    in_tree: Any
    out_tree: Any
    inputs: tuple[Leaf, ...]
    outputs: tuple[Leaf, ...]
    batched: bool
    transfers: Transfers = BY_XLA
    _least_ns_per_row: dict[int, float] = field(init=False, repr=False)
    _fits: dict[tuple[int, int], Fit] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        least: dict[int, float] = {}
        for (rows, length), plan in self.plans.items():
            least[length] = min(plan.least_ns / rows, least.get(length, math.inf))
        object.__setattr__(self, "_least_ns_per_row", least)

    def takes_the_same_as(self, other: Program) -> bool:
        """Whether what one has accepted, the other can run, with results of the same form."""
        mine, its = self.info, other.info
        return (self.in_tree, self.out_tree, self.inputs, self.outputs, self.batched) == (
            other.in_tree, other.out_tree, other.inputs, other.outputs, other.batched
        ) and (mine.buckets, mine.lengths) == (its.buckets, its.lengths)  # fmt: skip

    @property
    def latency(self) -> bool:
        """Whether the model is latency-sensitive."""
        return self.info.priority is Priority.LATENCY

    def named_outputs(self, leaves: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """A result's leaves by name."""
        return {leaf.name: array for leaf, array in zip(self.outputs, leaves, strict=True)}

    @property
    def max_rows(self) -> int:
        """Rows that may share a batch."""
        return self.info.buckets[-1] if self.batched else 0

    def accept(self, inputs: PyTree) -> Inputs:
        """Checks `inputs` and copies them to the host, so that the caller may go on writing them.

        Raises:
            InvalidInputError: another tree, dtype or trailing shape than the example's.
            UnsupportedShapeError: more rows or positions than the largest bucket.
            RuntimeClosedError: the link that was to copy them is closed.
        """
        leaves, tree = jax.tree.flatten(inputs)
        if tree != self.in_tree:
            raise InvalidInputError(
                f"model {self.info.name!r}: inputs have the tree {tree}, "
                f"the example has {self.in_tree}"
            )
        return self.accept_leaves(leaves)

    def accept_leaves(self, leaves: Sequence[Any]) -> Inputs:
        """`accept` for inputs that are flat already, in the order of `info.inputs`."""
        arrays = []
        for leaf, value in zip(self.inputs, leaves, strict=True):
            fits = type(value) is np.ndarray and value.dtype == leaf.dtype
            if not (fits and value.ndim == len(leaf.shape) and value.flags.c_contiguous):
                value = self._array(leaf, value)
            arrays.append(self.transfers.stage(value))
        rows, actual = arrays[0].shape[0], 0
        if self.info.lengths:
            actual = self._length_of(arrays)
            self._check_length(actual, self.info.lengths)
        for leaf, array in zip(self.inputs, arrays, strict=True):
            if array.shape != leaf.sized(rows, actual):
                raise InvalidInputError(
                    f"model {self.info.name!r}: input {leaf.name!r} has shape {array.shape}, "
                    f"allowed is {self._allowed(leaf)}; all inputs have the same B and L"
                )
        fit = self.fit(rows, actual)
        if fit.length != actual:
            pairs = zip(self.inputs, arrays, strict=True)
            arrays = [_pad(leaf, array, fit.length) for leaf, array in pairs]
        return Inputs(arrays, fit)

    def fit(self, rows: int, actual: int = 0) -> Fit:
        """What is known of requests of B = `rows` and unpadded L = `actual`.

        Raises UnsupportedShapeError.
        """
        found = self._fits.get((rows, actual))  # few shapes come again and again
        if found is not None:
            return found
        self._check_rows(rows)
        lengths = self.info.lengths
        length = lengths[bisect.bisect_left(lengths, actual)] if lengths else 0
        if len(self._fits) >= _MOST_FITS:
            self._fits.clear()
        fit = self._fits[rows, actual] = Fit(
            rows,
            length,
            actual,
            self.plan_for(rows, length),
            int(rows * self._least_ns_per_row[length]),
            sum(leaf.nbytes(rows, actual) for leaf in self.inputs),
            sum(leaf.nbytes(rows, actual) for leaf in self.outputs),
        )
        return fit

    def accept_named(self, tensors: Mapping[str, Any]) -> Inputs:
        """`accept` for inputs by the names that `info.inputs` lists."""
        leaves = [tensors[leaf.name] for leaf in self.inputs if leaf.name in tensors]
        if not len(leaves) == len(tensors) == len(self.inputs):
            names = sorted(leaf.name for leaf in self.inputs)
            raise InvalidInputError(
                f"model {self.info.name!r}: got the inputs {sorted(tensors)}, allowed are {names}"
            )
        return self.accept_leaves(leaves)

    def _length_of(self, arrays: Sequence[np.ndarray]) -> int:
        pairs = zip(self.inputs, arrays, strict=True)
        return next(a.shape[leaf.length_axes[0]] for leaf, a in pairs if leaf.length_axes)

    def _array(self, leaf: Leaf, value: Any) -> np.ndarray:
        """`value` as `leaf` is, [B, ...] and C-contiguous."""
        try:
            array = np.ascontiguousarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInputError(
                f"model {self.info.name!r}: input {leaf.name!r} is no array: {error}"
            ) from None
        if array.dtype != leaf.dtype and not _same_in_jax(array.dtype, leaf.dtype):
            raise InvalidInputError(
                f"model {self.info.name!r}: input {leaf.name!r} has dtype {array.dtype}, "
                f"allowed is {leaf.dtype}"
            )
        if array.ndim != len(leaf.shape):
            raise InvalidInputError(
                f"model {self.info.name!r}: input {leaf.name!r} has shape {array.shape}, "
                f"allowed is {self._allowed(leaf)}"
            )
        return array if array.dtype == leaf.dtype else array.astype(leaf.dtype)

    def _allowed(self, leaf: Leaf) -> str:
        axes = [
            "B" if axis == 0 else "L" if axis in leaf.length_axes else str(size)
            for axis, size in enumerate(leaf.shape)
        ]
        text = f"[{', '.join(axes)}] with B up to {self.info.buckets[-1]}"
        return text + (f" and L up to {self.info.lengths[-1]}" if self.info.lengths else "")

    def _check_rows(self, rows: int) -> None:
        buckets = self.info.buckets
        if rows < 1 or rows > buckets[-1] or (not self.batched and rows not in buckets):
            rule = "" if self.batched else " exactly, as its outputs have no batch axis"
            raise UnsupportedShapeError(
                f"model {self.info.name!r}: {rows} rows do not fit the declared batch sizes "
                f"{list(buckets)}{rule}"
            )

    def _check_length(self, length: int, lengths: Sequence[int]) -> None:
        if length < 1 or length > lengths[-1]:
            raise UnsupportedShapeError(
                f"model {self.info.name!r}: a sequence of {length} positions does not fit "
                f"the declared lengths {list(lengths)}"
            )

    def plan_for(self, rows: int, length: int) -> Plan:
        """The smallest plan that holds `rows`, at a length bucket."""
        plan = self.plans.get((rows, length))
        return plan or self.plans[self._rows_bucket(rows), length]

    def _rows_bucket(self, rows: int) -> int:
        buckets = self.info.buckets
        return buckets[bisect.bisect_left(buckets, rows)]

    def stack(self, parts: Sequence[Sequence[np.ndarray]], rows: int) -> list[np.ndarray]:
        """The inputs of `plan_for(rows)`: the parts one below the other, then zeros.

        parts: for each request its leaves, as `accept` returned them; `rows` together.
        """
        if len(parts) == 1 and rows in self.info.buckets:
            return list(parts[0])
        bucket = self._rows_bucket(rows)
        return [stack_rows([part[k] for part in parts], bucket) for k in range(len(parts[0]))]

    def unstack(
        self, results: Sequence[jax.Array], rows: Sequence[int], lengths: Sequence[int]
    ) -> list[list[np.ndarray]]:
        """The results of each request, on the host, without padding.

        rows, lengths: B and unpadded L of each request, in the order of `stack`.
        """
        host = self.transfers.to_host(results)
        if len(rows) == 1 and host[0].shape[:1] == (rows[0],) and not any(lengths):
            return [host]
        split, start = [], 0
        for count, length in zip(rows, lengths, strict=True):
            one = []
            for leaf, array in zip(self.outputs, host, strict=True):
                if self.batched and array.shape[0] != count:
                    array = array[start : start + count]
                for axis in leaf.length_axes:
                    if array.shape[axis] != length:
                        array = array[(slice(None),) * axis + (slice(length),)]
                one.append(array)
            split.append(one)
            start += count
        return split


def _same_in_jax(dtype: np.dtype, wanted: np.dtype) -> bool:
    """Whether JAX takes `dtype` for `wanted`, as it takes float64 for float32."""
    return dtype.kind in "biufc" and jax.dtypes.canonicalize_dtype(dtype) == wanted


def _pad(leaf: Leaf, array: np.ndarray, length: int) -> np.ndarray:
    widths = [
        (0, length - size if axis in leaf.length_axes else 0)
        for axis, size in enumerate(array.shape)
    ]
    return np.pad(array, widths)
