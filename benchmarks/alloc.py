"""Does the arena stay quick and whole under a day of models that come and go?

Models of the zoo's sizes, in the groups in which they are swapped, come in a seeded random order
into an arena for about a tenth of them; who was used least lately leaves. Times are those of the
Python call. *Fragmentation* is the share of free memory in holes that no full group fits into:
blocks are never larger than a group or a single parameter, so that is what is lost without moving.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

import jax
import numpy as np

import missile_jax.models as zoo
from benchmarks.report import Report
from missile_jax._native import Arena, Block
from missile_jax.memory.store import grouped

ARENA_BYTES = 1 << 30
ALIGNMENT = 64
# About the elbow of a machine's transfer curve.
GROUP_BYTES = 2 << 20
# A model has to fit where this many times its size is free.
ROOM = 1.1


def run(quick: bool, seed: int) -> Report:
    report = Report("alloc", seed)
    rng = np.random.default_rng(seed)
    models = _models(rng, copies=12)
    arena = Arena(ARENA_BYTES, alignment=ALIGNMENT)
    churn = _Churn(arena)
    for _ in range(2_000 if quick else 40_000):
        name = str(rng.choice(list(models)))
        churn.use(name, models[name].groups)
    times = {"allocate": churn.allocate_ns, "release": churn.release_ns, "make room": churn.room_ns}
    for what, taken_ns in times.items():
        p50, p99, p999 = np.percentile(np.array(taken_ns) / 1e3, (50, 99, 99.9))
        report.rows.append({"what": what, "n": len(taken_ns), "p50_us": p50, "p99_us": p99,
                            "p999_us": p999, "max_us": max(taken_ns) / 1e3})  # fmt: skip
    stats = arena.stats()
    requested = sum(model.requested_bytes for model in models.values())
    report.summary = {
        "alloc_p99_us": report.rows[0]["p99_us"],
        "release_p99_us": report.rows[1]["p99_us"],
        "fragmentation": float(np.median(churn.too_small)),
        "fragmentation_p99": float(np.percentile(churn.too_small, 99)),
        "largest_hole_lacks": float(np.median(churn.largest_lacks)),
        "internal_waste": 1 - requested / sum(sum(model.groups) for model in models.values()),
        "models_placed": churn.placed,
        "fits_refused": churn.refused,
        "moved_bytes_per_placed_byte": stats["moved_bytes"] / churn.placed_bytes,
        "native_allocations": stats["native_allocations"],
    }
    return report


@dataclass(frozen=True, slots=True)
class _Model:
    """requested_bytes: of its parameters. groups: sizes of its groups, each leaf aligned."""

    requested_bytes: int
    groups: list[int]


def _models(rng: np.random.Generator, copies: int) -> dict[str, _Model]:
    """Each model of the zoo some times over, stretched as fine-tunes of other widths would be."""
    models = {}
    for name in zoo.names():
        variables = zoo.load(name, random_weights=True).variables
        leaves = [np.asarray(x).nbytes for x in jax.tree.leaves(variables)]
        for k in range(copies):
            stretch = rng.uniform(0.8, 1.25)
            sizes = [max(4, round(n * stretch) // 4 * 4) for n in leaves]
            groups = [
                sum(-(-sizes[i] // ALIGNMENT) * ALIGNMENT for i in group)
                for group in grouped(sizes, range(len(sizes)), GROUP_BYTES, ALIGNMENT)
            ]
            models[f"{name}-{k}"] = _Model(sum(sizes), groups)
    return models


class _Churn:
    """Models in least recently used order, and what placing them took.

    too_small, largest_lacks: before each model that is placed, the share of the free bytes in holes
        that a full group does not fit into, and the share that the largest hole lacks.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._resident: OrderedDict[str, list[Block]] = OrderedDict()
        self.allocate_ns: list[int] = []
        self.release_ns: list[int] = []
        self.room_ns: list[int] = []
        self.largest_lacks: list[float] = []
        self.too_small: list[float] = []
        self.placed = self.placed_bytes = self.refused = 0

    def use(self, name: str, sizes: list[int]) -> None:
        if name in self._resident:
            self._resident.move_to_end(name)
            return
        while self._arena.free_bytes < ROOM * sum(sizes):
            self._drop(self._resident.popitem(last=False)[1])
        holes = self._holes()
        self.largest_lacks.append(1 - max(holes) / sum(holes))
        self.too_small.append(sum(h for h in holes if h < GROUP_BYTES) / sum(holes))
        blocks: list[Block] = []
        for size in sizes:
            block = self._allocate(size, blocks[-1] if blocks else None)
            if block is None and self._make_room(size):
                block = self._allocate(size, None)
            if block is None:
                self.refused += 1
                self._drop(blocks)
                return
            blocks.append(block)
        self._resident[name] = blocks
        self.placed += 1
        self.placed_bytes += sum(sizes)

    def _holes(self) -> list[int]:
        taken = [(b.offset, b.size_bytes) for blocks in self._resident.values() for b in blocks]
        ends = [0, *(offset + size for offset, size in sorted(taken))]
        starts = [*(offset for offset, _ in sorted(taken)), self._arena.size_bytes]
        return [start - end for end, start in zip(ends, starts, strict=True) if start > end]

    def _allocate(self, size: int, near: Block | None) -> Block | None:
        start = time.perf_counter_ns()
        block = self._arena.allocate(size, near)
        self.allocate_ns.append(time.perf_counter_ns() - start)
        return block

    def _make_room(self, size: int) -> bool:
        start = time.perf_counter_ns()
        made = self._arena.make_room(size)
        self.room_ns.append(time.perf_counter_ns() - start)
        return made

    def _drop(self, blocks: list[Block]) -> None:
        # From the last on, as an eviction does.
        for block in reversed(blocks):
            start = time.perf_counter_ns()
            block.release()
            self.release_ns.append(time.perf_counter_ns() - start)
