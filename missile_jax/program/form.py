"""The form in which a model's parameters are kept: small ones as one array, axes as wanted.

Each array costs JAX some microseconds when its model comes to the device, and a part of one at
every launch, and a network has hundreds of biases, scales and means. So small parameters of one
dtype lie one behind the other in an array, in the order of their use. And a compiler may want the
axes of a parameter in another order in memory; else every launch would transpose it.

A program takes the parameters as they are kept, and slices and transposes where it reads them: the
compiler fuses the one with the read, and the other is no work if the axes lie as it wants them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend import core as jex

from missile_jax.program.trace import Traced, bind_eqn

# Larger ones stay by themselves: a slice that is not fused is a copy.
_SMALL_BYTES = 16 << 10
# A pack is there with its first parameter, long before its last: it should take no time to come.
_PACK_BYTES = 128 << 10


@dataclass(frozen=True, slots=True)
class _Place:
    """Of a parameter: which array, its first element there, its axes from major to minor."""

    array: int
    start: int
    shape: tuple[int, ...]
    order: tuple[int, ...]

    def read(self, array: Any) -> Any:
        """The parameter out of its array."""
        kept = tuple(self.shape[axis] for axis in self.order)
        if array.shape != kept:
            flat = lax.slice(array, (self.start,), (self.start + math.prod(kept),))
            array = lax.reshape(flat, kept)
        if self.order == tuple(range(len(kept))):
            return array
        return lax.transpose(array, tuple(int(axis) for axis in np.argsort(self.order)))


@dataclass(frozen=True, slots=True)
class Form:
    """How parameters are kept.

    members: for each array the parameters in it, by index: one by itself, or a pack.
    orders: of each parameter the axes as they lie in memory, from major to minor.
    """

    members: tuple[tuple[int, ...], ...]
    orders: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, traced: Traced, leaves: Sequence[Any], orders: Sequence[tuple[int, ...]]) -> Form:
        """Packs the small ones of `leaves`, the parameters of `traced`, as it comes to them.

        orders: of the axes of each, as the compiler wants them.
        """
        packs: list[list[int]] = []
        last: dict[np.dtype, list[int]] = {}
        last_bytes: dict[np.dtype, int] = {}
        for i in _order_of_use(traced, len(leaves)):
            leaf = leaves[i]
            if not _is_small(leaf):
                continue
            if last_bytes.get(leaf.dtype, _PACK_BYTES) >= _PACK_BYTES:
                last[leaf.dtype], last_bytes[leaf.dtype] = [], 0
                packs.append(last[leaf.dtype])
            last[leaf.dtype].append(i)
            last_bytes[leaf.dtype] += leaf.nbytes
        packs = [pack for pack in packs if len(pack) > 1]
        packed = {i for pack in packs for i in pack}
        apart = [(i,) for i in range(len(leaves)) if i not in packed]
        return cls((*apart, *map(tuple, packs)), tuple(orders))

    def arrays(self, leaves: Sequence[Any]) -> list[Any]:
        """`leaves` as they are kept; those that are not as they were, on the host."""
        return [self._array([leaves[i] for i in group], group) for group in self.members]

    def _array(self, leaves: Sequence[Any], group: Sequence[int]) -> Any:
        orders = [self.orders[i] for i in group]
        if len(group) == 1:
            (leaf,), (order,) = leaves, orders
            return leaf if order == _row_major(leaf) else np.asarray(leaf).transpose(order).copy()
        moved = (np.asarray(x).transpose(order) for x, order in zip(leaves, orders, strict=True))
        return np.concatenate([x.reshape(-1) for x in moved])

    def taken_by(self, traced: Traced) -> Traced:
        """The same program, which takes parameters as they are kept."""
        jaxpr = traced.jaxpr.jaxpr
        places = self._places(jaxpr.invars)
        others = jaxpr.invars[len(places) :]

        def run(*args: Any) -> list[Any]:
            values: dict[Any, Any] = dict(zip(others, args[len(self.members) :], strict=True))

            def read(atom: Any) -> Any:
                if isinstance(atom, jex.Literal):
                    return atom.val
                place = places.get(atom)
                # Anew at each place of use, so that no slice lives from one segment to another.
                return values[atom] if place is None else place.read(args[place.array])

            for eqn in jaxpr.eqns:
                results = bind_eqn(eqn, [read(atom) for atom in eqn.invars])
                values.update(zip(eqn.outvars, results, strict=True))
            return [read(atom) for atom in jaxpr.outvars]

        kept = jax.make_jaxpr(run)(*self._avals(jaxpr.invars), *(v.aval for v in others))
        fewer = len(places) - len(self.members)
        return replace(traced, jaxpr=kept, num_params=traced.num_params - fewer)

    def _places(self, variables: Sequence[Any]) -> dict[Any, _Place]:
        places = {}
        for k, group in enumerate(self.members):
            start = 0
            for i in group:
                shape = variables[i].aval.shape
                places[variables[i]] = _Place(k, start, shape, self.orders[i])
                start += math.prod(shape)
        return places

    def _avals(self, variables: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
        avals = []
        for group in self.members:
            first = variables[group[0]].aval
            shape = tuple(first.shape[axis] for axis in self.orders[group[0]])
            if len(group) > 1:
                shape = (sum(math.prod(variables[i].aval.shape) for i in group),)
            avals.append(jax.ShapeDtypeStruct(shape, first.dtype))
        return avals


def _row_major(leaf: Any) -> tuple[int, ...]:
    return tuple(range(len(leaf.shape)))


def _order_of_use(traced: Traced, count: int) -> list[int]:
    """Of the first `count` parameters, those that are read."""
    jaxpr = traced.jaxpr.jaxpr
    index = {v: i for i, v in enumerate(jaxpr.invars[:count])}
    read = (a for eqn in jaxpr.eqns for a in eqn.invars if not isinstance(a, jex.Literal))
    return list(dict.fromkeys(index[v] for v in read if v in index))


def _is_small(leaf: Any) -> bool:
    # Floating point of whole bytes; others are rare, and random keys cannot be laid side by side.
    floating = jax.dtypes.issubdtype(leaf.dtype, np.floating) and leaf.dtype.itemsize > 1
    return floating and 0 < leaf.nbytes <= _SMALL_BYTES
