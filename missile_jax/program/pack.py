"""Small parameters as one: biases, scales and means, of which a network has hundreds.

Each array costs JAX some microseconds when its model comes to the device, and a part of one at
every launch. So small parameters of one dtype lie one behind the other in an array, in the order of
their use, and a program slices them out again where it reads them, which XLA fuses with the read.
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

# Larger ones stay by themselves: a slice that XLA cannot fuse is a copy.
_SMALL_BYTES = 16 << 10
# A pack is there with its first parameter, long before its last: it should take no time to come.
_PACK_BYTES = 128 << 10


@dataclass(frozen=True, slots=True)
class _Place:
    """Of a parameter: which of the packed arrays, and its first element there; shape: its own."""

    array: int
    start: int
    shape: tuple[int, ...]

    def read(self, array: Any) -> Any:
        """The parameter out of its array."""
        if array.shape == self.shape:
            return array
        flat = lax.slice(array, (self.start,), (self.start + math.prod(self.shape),))
        return lax.reshape(flat, self.shape)


@dataclass(frozen=True, slots=True)
class Packing:
    """Which parameters of a model lie in one array.

    members: for each array the parameters in it, by index: one that stays as it is, or a pack.
    """

    members: tuple[tuple[int, ...], ...]

    @classmethod
    def apart(cls, count: int) -> Packing:
        """Of `count` parameters, each by itself."""
        return cls(tuple((i,) for i in range(count)))

    @classmethod
    def of(cls, traced: Traced, leaves: Sequence[Any]) -> Packing:
        """Packs the small ones of `leaves`, the parameters of `traced`, as it comes to them."""
        open_packs: dict[np.dtype, list[int]] = {}
        packs: list[list[int]] = []
        for i in _order_of_use(traced, len(leaves)):
            if not _is_small(leaves[i]):
                continue
            pack = open_packs.get(leaves[i].dtype)
            if pack is None or sum(leaves[k].nbytes for k in pack) >= _PACK_BYTES:
                pack = open_packs[leaves[i].dtype] = []
                packs.append(pack)
            pack.append(i)
        packs = [pack for pack in packs if len(pack) > 1]
        packed = {i for pack in packs for i in pack}
        apart = [(i,) for i in range(len(leaves)) if i not in packed]
        return cls((*apart, *map(tuple, packs)))

    def pack(self, leaves: Sequence[Any]) -> list[Any]:
        """The arrays, on the host where they are packs."""
        return [
            leaves[group[0]]
            if len(group) == 1
            else np.concatenate([np.asarray(leaves[i]).reshape(-1) for i in group])
            for group in self.members
        ]

    def packed(self, traced: Traced) -> Traced:
        """The same program, which takes these arrays for its parameters."""
        if all(len(group) == 1 for group in self.members):
            return traced
        jaxpr = traced.jaxpr.jaxpr
        places = self._places(jaxpr.invars)

        def run(*args: Any) -> list[Any]:
            others = jaxpr.invars[len(places) :]
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

        arrays = [_aval(group, jaxpr.invars) for group in self.members]
        others = [v.aval for v in jaxpr.invars[len(places) :]]
        packed = jax.make_jaxpr(run)(*arrays, *others)
        fewer = len(places) - len(self.members)
        return replace(traced, jaxpr=packed, num_params=traced.num_params - fewer)

    def _places(self, variables: Sequence[Any]) -> dict[Any, _Place]:
        places = {}
        for k, group in enumerate(self.members):
            start = 0
            for i in group:
                shape = variables[i].aval.shape
                places[variables[i]] = _Place(k, start, shape)
                start += math.prod(shape)
        return places


def _aval(group: Sequence[int], variables: Sequence[Any]) -> Any:
    first = variables[group[0]].aval
    if len(group) == 1:
        return first
    size = sum(math.prod(variables[i].aval.shape) for i in group)
    return jax.ShapeDtypeStruct((size,), first.dtype)


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
