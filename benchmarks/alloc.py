"""Does the arena stay quick and whole under a day of models that come and go?

Models of the zoo's sizes, in the groups in which they are swapped, come in a seeded random order
into an arena for about a tenth of them; who was used least lately leaves. Times are those of the
Python call; the slowest are those *after room* was made, with what moved in the caches.
*Fragmentation* is the share of free memory in holes that no full group fits into: blocks are never
larger than a group or a single parameter, so that is what is lost without moving. *External
fragmentation* is the usual measure: 1 - largest hole / free memory.

Then requests are sent to models through a `Runtime`, to some that are on the device and to some
that are not. What a request costs besides its compute is counted: growth of our own slabs, and page
faults of the process, most of which are memory that XLA takes for temporaries and outputs.
"""

from __future__ import annotations

import itertools
import resource
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import missile_jax.models as zoo
from benchmarks.report import Report
from missile_jax import Runtime
from missile_jax._native import Arena, Block
from missile_jax.memory.memory import ARENA_SHARE
from missile_jax.memory.store import grouped

ARENA_BYTES = 1 << 30
ALIGNMENT = 64
# About the elbow of a machine's transfer curve.
GROUP_BYTES = 2 << 20
# A model has to fit where this many times its size is free.
ROOM = 1.1
# Of this model so many, the first of them pinned, on a device that holds so many.
MODEL, MODELS, HELD = "squeezenet", 6, 4
# Of requests to models that are there, and to those that are not, by turns.
TURNS = 10


def run(uses: int, requests: int, seed: int) -> Report:
    """uses: of models that come to the arena. requests: of each kind through a `Runtime`."""
    report = Report("alloc", seed)
    _churn(report, uses, seed)
    _requests(report, requests)
    return report


def _churn(report: Report, uses: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    models = _models(rng, copies=12)
    arena = Arena(ARENA_BYTES, alignment=ALIGNMENT)
    churn = _Churn(arena)
    for _ in range(uses):
        name = str(rng.choice(list(models)))
        churn.use(name, models[name].groups)
    times = {
        "allocate": churn.allocate_ns,
        "release": churn.release_ns,
        "make room": churn.room_ns,
        "after room": churn.after_room_ns,
    }
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
        "external_fragmentation": float(np.median(churn.largest_lacks)),
        "external_fragmentation_p99": float(np.percentile(churn.largest_lacks, 99)),
        "internal_waste": 1 - requested / sum(sum(model.groups) for model in models.values()),
        "models_placed": churn.placed,
        "fits_refused": churn.refused,
        "moved_bytes_per_placed_byte": stats["moved_bytes"] / churn.placed_bytes,
        "native_allocations": stats["native_allocations"],
    }
    measures = {"fragmentation": churn.too_small, "external": churn.largest_lacks}
    for measure, shares in measures.items():
        found = np.percentile(shares, range(101))
        report.rows.append({"measure": measure, "percentiles": found.tolist()})


def _requests(report: Report, requests: int) -> None:
    """Faults and native allocations of requests to resident models, and to swapped ones."""
    model = zoo.load(MODEL, random_weights=True)
    size = sum(x.nbytes for x in jax.tree.leaves(model.variables))
    x = np.asarray(model.example)
    first, *others = (f"m{k}" for k in range(MODELS))
    with Runtime(device_memory=round(HELD * size / ARENA_SHARE), eviction="lru") as runtime:
        for k, name in enumerate((first, *others)):
            own = jax.tree.map(lambda leaf, k=k: np.asarray(leaf) * (1 + k / 100), model.variables)
            runtime.load(name, model=model.module, params=own, example=x, priority="latency",
                         pinned=name == first)  # fmt: skip
        # The others in a circle: whoever is asked has left just before.
        kinds = {
            "resident": _Requests(runtime, [first], x),
            "swapped": _Requests(runtime, others, x),
        }
        for turn in range(1 + TURNS):
            for kind in kinds.values():
                kind.run(requests // TURNS, counted=turn > 0)
    for what, kind in kinds.items():
        report.rows.append(kind.row(what))
        report.summary[f"minor_faults_per_request.{what}"] = report.rows[-1]["minor_faults"]
    report.summary["request_native_allocations"] = sum(
        kind.counts["native_allocations"] for kind in kinds.values()
    )


class _Requests:
    """Requests to `names` in turn, and what was counted meanwhile."""

    def __init__(self, runtime: Runtime, names: list[str], x: np.ndarray) -> None:
        self._runtime, self._names, self._x = runtime, itertools.cycle(names), x
        self._taken_us: list[float] = []
        self.counts: Counter[str] = Counter()

    def run(self, requests: int, *, counted: bool) -> None:
        before, taken_us = _counters(self._runtime), []
        for name in itertools.islice(self._names, requests):
            start = time.perf_counter()
            self._runtime.infer(name, self._x)
            taken_us.append((time.perf_counter() - start) * 1e6)
        after = _counters(self._runtime)
        if counted:
            self._taken_us += taken_us
            self.counts.update({name: after[name] - before[name] for name in after})

    def row(self, what: str) -> dict[str, Any]:
        """minor_faults, swap_ins: of each request."""
        p50, p99, p999 = np.percentile(self._taken_us, (50, 99, 99.9))
        n = len(self._taken_us)
        return {"what": f"request, {what}", "n": n, "p50_us": p50, "p99_us": p99,
                "p999_us": p999, "max_us": max(self._taken_us),
                "minor_faults": self.counts["minor_faults"] / n,
                "swap_ins": self.counts["swap_ins"] / n,
                "native_allocations": self.counts["native_allocations"]}  # fmt: skip


def _counters(runtime: Runtime) -> dict[str, int]:
    """Minor faults of the process, native allocations of ours, swap-ins."""
    stats = runtime.stats()
    swap_ins = sum(model["residency"]["swap_ins"] for model in stats["models"].values())
    return {
        "minor_faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt,
        "native_allocations": round(stats["memory"]["arena"]["native_allocations"]),
        "swap_ins": swap_ins,
    }


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

    after_room_ns: of `allocate_ns`, those of blocks that room was made for.
    too_small, largest_lacks: before each model that is placed, the share of the free bytes in holes
        that a full group does not fit into, and the share that the largest hole lacks.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._resident: OrderedDict[str, list[Block]] = OrderedDict()
        self.allocate_ns: list[int] = []
        self.release_ns: list[int] = []
        self.room_ns: list[int] = []
        self.after_room_ns: list[int] = []
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
                self.after_room_ns.append(self.allocate_ns[-1])
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
