"""Where a flat program is cut: a shortest path over the places between equations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend import core as jex

# Prices in ns of a CPU launch. A GPU's are lower, but the order of the choices is the same.
_PER_SEGMENT_NS = 60_000
_PER_LIVE_VALUE_NS = 3_000
_BYTES_PER_NS = 8.0
# How dear a ns over the quantum is against a ns of overhead: a late LS request is worth a lot.
_OVERRUN = 20.0

# XLA starts a new kernel at these, so a cut just before one breaks no fusion.
_HEAVY = frozenset(
    (
        "conv_general_dilated dot_general reduce_window_max reduce_window_min "
        "reduce_window_sum scan while cond sort cumsum cumprod cummax fft triangular_solve "
        "cholesky gather scatter scatter-add"
    ).split()
)


@dataclass(frozen=True, slots=True)
class Place:
    """The gap before equation `index`.

    live: values made before it, inputs included, that are needed behind it; parameters are not.
    live_bytes: their size.
    clean: whether the equation behind it starts a kernel of its own.
    """

    index: int
    live: tuple[Any, ...]
    live_bytes: int
    clean: bool


def places(
    eqns: Sequence[jex.JaxprEqn], inputs: Sequence[Any], outputs: Sequence[Any]
) -> list[Place]:
    """All places of a program, from before its first equation to behind its last."""
    born: dict[Any, int] = dict.fromkeys(inputs, 0)
    last: dict[Any, int] = {}
    for index, eqn in enumerate(eqns):
        for atom in eqn.invars:
            if not isinstance(atom, jex.Literal):
                last[atom] = index
        for var in eqn.outvars:
            born[var] = index + 1
    for atom in outputs:
        if not isinstance(atom, jex.Literal):
            last[atom] = len(eqns)
    dying: dict[int, list[Any]] = {}
    arriving: dict[int, list[Any]] = {}
    for var, at in born.items():
        if var in last and last[var] >= at:
            arriving.setdefault(at, []).append(var)
            dying.setdefault(last[var], []).append(var)
    live: dict[Any, None] = {}
    result = []
    for index in range(len(eqns) + 1):
        live.update(dict.fromkeys(arriving.get(index, ())))
        size = sum(_bytes(v) for v in live)
        clean = index < len(eqns) and _starts_kernel(eqns, index)
        result.append(Place(index, tuple(live), size, clean))
        for var in dying.get(index, ()):
            del live[var]
    return result


def _starts_kernel(eqns: Sequence[jex.JaxprEqn], index: int) -> bool:
    # The slice that feeds a sliced equation belongs to it.
    while eqns[index].primitive.name == "slice" and index + 1 < len(eqns):
        index += 1
    return eqns[index].primitive.name in _HEAVY


def choose(all_places: Sequence[Place], costs_ns: Sequence[int], quantum_ns: int) -> list[int]:
    """Indices of the cuts, ascending: the cheapest way to keep every segment within `quantum_ns`.

    The price of a cut is the launch, its live values, and the fusion it breaks; the price of a
    segment is what it takes over the quantum. Cuts before a heavy equation break no fusion.
    """
    total = [0]
    for cost in costs_ns:
        total.append(total[-1] + cost)
    end = len(costs_ns)
    best: list[float] = [math.inf] * (end + 1)
    came: list[int] = [0] * (end + 1)
    best[0] = 0.0
    # Once a segment is this far over, a longer one is never better than the one-equation way.
    reach = 2 * quantum_ns + (max(costs_ns) if costs_ns else 0)
    for stop in range(1, end + 1):
        entry = 0.0 if stop == end else _price(all_places[stop])
        for start in range(stop - 1, -1, -1):
            length = total[stop] - total[start]
            if length > reach and start < stop - 1:
                break
            over = max(0, length - quantum_ns)
            price = best[start] + entry + _PER_SEGMENT_NS + _OVERRUN * over
            if price < best[stop]:
                best[stop], came[stop] = price, start
    cuts = []
    at = came[end]
    while at > 0:
        cuts.append(at)
        at = came[at]
    return cuts[::-1]


def _price(place: Place) -> float:
    price = _PER_LIVE_VALUE_NS * len(place.live)
    broken = 2.0 if not place.clean else 0.1
    return price + broken * place.live_bytes / _BYTES_PER_NS


def _bytes(var: Any) -> int:
    return math.prod(getattr(var.aval, "shape", ())) * getattr(var.aval.dtype, "itemsize", 4)
