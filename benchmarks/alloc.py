"""Does the arena stay quick and whole under a day of models that come and go?

Models of the zoo's sizes, in the groups in which they are swapped, come in a seeded random order
into an arena for about a tenth of them; who was used least lately leaves. Times are those of the
Python call.
"""

from __future__ import annotations

import time
from collections import OrderedDict

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
    models = _group_sizes(rng, copies=12)
    arena = Arena(ARENA_BYTES, alignment=ALIGNMENT)
    churn = _Churn(arena)
    for _ in range(2_000 if quick else 40_000):
        name = str(rng.choice(list(models)))
        churn.use(name, models[name])
    stats = arena.stats()
    allocate, release = (np.array(t) / 1e3 for t in (churn.allocate_ns, churn.release_ns))
    for what, us in (("allocate", allocate), ("release", release)):
        p50, p99, p999 = np.percentile(us, (50, 99, 99.9))
        report.rows.append({"what": what, "n": len(us), "p50_us": p50, "p99_us": p99,
                            "p999_us": p999, "max_us": us.max()})  # fmt: skip
    report.summary = {
        "alloc_p99_us": float(np.percentile(allocate, 99)),
        "release_p99_us": float(np.percentile(release, 99)),
        "fragmentation": float(np.median(churn.fragmentation)),
        "fragmentation_p99": float(np.percentile(churn.fragmentation, 99)),
        "internal_waste": stats["internal_waste"],
        "models_placed": churn.placed,
        "fits_refused": churn.refused,
        "compactions": churn.compactions,
        "moved_bytes": stats["moved_bytes"],
        "native_allocations": stats["native_allocations"],
    }
    return report


def _group_sizes(rng: np.random.Generator, copies: int) -> dict[str, list[int]]:
    """Sizes of the groups of each model; copies differ as fine-tunes of other widths would."""
    sizes = {}
    for name in zoo.names():
        leaves = [np.asarray(x).nbytes for x in jax.tree.leaves(_shapes(name))]
        for k in range(copies):
            stretch = rng.uniform(0.8, 1.25)
            stretched = [max(4, round(n * stretch) // 4 * 4) for n in leaves]
            groups = grouped(stretched, range(len(leaves)), GROUP_BYTES, ALIGNMENT)
            sizes[f"{name}-{k}"] = [
                sum(-(-stretched[i] // ALIGNMENT) * ALIGNMENT for i in group) for group in groups
            ]
    return sizes


def _shapes(name: str) -> object:
    return zoo.load(name, random_weights=True).variables


class _Churn:
    """Models in least recently used order, and what placing them took."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._resident: OrderedDict[str, list[Block]] = OrderedDict()
        self.allocate_ns: list[int] = []
        self.release_ns: list[int] = []
        self.fragmentation: list[float] = []
        self.placed = self.refused = self.compactions = 0

    def use(self, name: str, sizes: list[int]) -> None:
        if name in self._resident:
            self._resident.move_to_end(name)
            return
        need = sum(sizes)
        while self._arena.free_bytes < ROOM * need:
            self._drop(self._resident.popitem(last=False)[1])
        self.fragmentation.append(self._arena.stats()["fragmentation"])
        blocks: list[Block] = []
        for size in sizes:
            block = self._allocate(size, blocks[-1] if blocks else None)
            if block is None:
                self.compactions += 1
                self._arena.compact()
                block = self._allocate(size, None)
            if block is None:
                self.refused += 1
                self._drop(blocks)
                return
            blocks.append(block)
        self._resident[name] = blocks
        self.placed += 1

    def _allocate(self, size: int, near: Block | None) -> Block | None:
        start = time.perf_counter_ns()
        block = self._arena.allocate(size, near)
        self.allocate_ns.append(time.perf_counter_ns() - start)
        return block

    def _drop(self, blocks: list[Block]) -> None:
        # From the last on, as an eviction does.
        for block in reversed(blocks):
            start = time.perf_counter_ns()
            block.release()
            self.release_ns.append(time.perf_counter_ns() - start)
