"""Is coloured memory quick, and does it waste little beyond what a plan leaves free?

Tensors of the zoo's sizes come and go in a seeded random order, some of LS and some of BE, in an
arena that blocks without colours share. *Waste* is the share of the coloured pages that could be
done without: the others would hold all that is there, each in its owner's channels. What a plan
leaves free within a page is the plan's own choice, and no waste. Maps are random legal ones, XOR
for powers of two and permuted for others, with granules of 1 KiB and pages in random states.

Times are those of the Python call, on this machine's memory: by the clock, and of the thread's own
CPU time. *Planning* gives 10,000 tensors their channels and granules, and then moves them to those
of another plan.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import missile_jax.models as zoo
from benchmarks.report import Report
from missile_jax._native import Arena, Block
from missile_jax.coloring.maps import PAGE_BYTES
from missile_jax.coloring.plan import ChannelPlan
from missile_jax.coloring.random_maps import random_permuted_map, random_xor_map
from missile_jax.errors import DeviceMemoryError
from missile_jax.memory.coloured import ColouredMemory, Tensor, colour_table
from missile_jax.spec import Priority

CHANNELS = (12, 32, 80)
PAGES = 256
PLANNED = 10_000
_CLASSES = (Priority.LATENCY, Priority.BEST_EFFORT)


def run(quick: bool, seed: int) -> Report:
    report = Report("granules", seed)
    rng = np.random.default_rng(seed)
    sizes = _sizes()
    waste, allocate = [], []
    for channels in CHANNELS:
        plans = {
            "apart": ChannelPlan.by_class(channels, latency_alone=True),
            "LS on all": ChannelPlan.by_class(channels),
        }
        calls = _calls(channels, 3_000 if quick else 30_000, rng)
        rows: list[dict[str, Any]] = [
            {"what": f"{what}, {channels} channels"} | _times(n) for what, n in calls.items()
        ]
        report.rows += rows
        allocate += [row for row in rows if row["what"].startswith("allocate")]
        for name, plan in plans.items():
            row = _churn(plan, sizes, 1_500 if quick else 15_000, rng)
            report.rows.append({"case": f"{channels} channels, {name}"} | row)
            waste.append(row)
    planning = [_planning(channels, sizes, rng) for channels in CHANNELS]
    report.summary = {
        "coloured_alloc_p99_us": max(row["p99_us"] for row in allocate),
        "coloured_alloc_p99_cpu_us": max(row["cpu_p99_us"] for row in allocate),
        "waste": max(row["waste"] for row in waste),
        "waste_p99": max(row["waste_p99"] for row in waste),
        "padding": max(row["padding"] for row in waste),
        "planning_seconds": max(first for first, _ in planning),
        "replanning_seconds": max(again for _, again in planning),
        "planned_tensors": PLANNED,
    }
    return report


def _times(taken_ns: Sequence[tuple[int, int]]) -> dict[str, Any]:
    wall, cpu = np.array(taken_ns).T / 1e3
    p50, p99, p999 = np.percentile(wall, (50, 99, 99.9))
    return {"n": len(wall), "p50_us": p50, "p99_us": p99, "p999_us": p999, "max_us": wall.max(),
            "cpu_p50_us": np.percentile(cpu, 50), "cpu_p99_us": np.percentile(cpu, 99)}  # fmt: skip


def _sizes() -> np.ndarray:
    """Bytes of each parameter in the zoo."""
    trees = (zoo.load(name, random_weights=True).variables for name in zoo.names())
    return np.array([np.asarray(leaf).nbytes for tree in trees for leaf in jax.tree.leaves(tree)])


def _memory(
    pages: int, plan: ChannelPlan, rng: np.random.Generator
) -> tuple[Arena, ColouredMemory]:
    power = plan.channels & (plan.channels - 1) == 0
    made = (random_xor_map if power else random_permuted_map)(rng, plan.channels)
    states = rng.integers(0, made.states, pages).tolist()
    arena = Arena(pages * PAGE_BYTES, prefault=False)
    return arena, ColouredMemory(arena, colour_table(made, states), made.granule_bytes, plan)


def _calls(channels: int, turns: int, rng: np.random.Generator) -> dict[str, list[tuple[int, int]]]:
    """2 MiB of granules on all channels and on BE's, with up to sixteen of each held."""
    plan = ChannelPlan.by_class(channels)
    _, memory = _memory(128, plan, rng)
    taken: dict[str, list[tuple[int, int]]] = {}
    for what, own in (("all", None), ("a third of", plan.best_effort)):
        held: list[Any] = []
        allocate = taken.setdefault(f"allocate 2 MiB on {what} channels", [])
        release = taken.setdefault(f"release on {what} channels", [])
        for _ in range(turns):
            if len(held) == 16:
                release.append(_timed(held.pop(int(rng.integers(16))).release)[1])
            one, times = _timed(lambda own=own: memory.pool.allocate(2 << 20, own))
            allocate.append(times)
            held.append(one)
    return taken


def _timed(call: Callable[[], Any]) -> tuple[Any, tuple[int, int]]:
    """What it returns, and (wall, CPU) ns that it took."""
    cpu, start = time.thread_time_ns(), time.perf_counter_ns()
    result = call()
    wall_ns = time.perf_counter_ns() - start
    return result, (wall_ns, time.thread_time_ns() - cpu)


def _churn(
    plan: ChannelPlan, sizes: np.ndarray, turns: int, rng: np.random.Generator
) -> dict[str, float]:
    """Tensors and blocks come, and the oldest go, in an arena that they fill by nine tenths."""
    arena, memory = _memory(PAGES, plan, rng)
    tensors: list[Tensor] = []
    blocks: list[Block] = []
    waste, used, refused = [], [], 0
    for turn in range(turns):
        size = int(rng.choice(sizes))
        if rng.random() < 0.2:
            block = arena.allocate(size)
            if block is not None:
                blocks.append(block)
        else:
            # As many bytes of either class as it has channels.
            priority = _CLASSES[int(rng.random() < len(plan.best_effort) / plan.channels)]
            try:
                tensors.append(memory.place("tenant", priority, size))
            except DeviceMemoryError:
                refused += 1
        while arena.free_bytes < 0.1 * arena.size_bytes or len(tensors) > 600:
            held = tensors if len(tensors) > len(blocks) else blocks
            one = held.pop(int(rng.integers(len(held))))
            if isinstance(one, Tensor):
                memory.remove(one)
            else:
                one.release()
        if turn % 500 == 499:
            memory.pool.gather()
            stats = memory.stats()
            waste.append(stats["waste"])
            used.append(stats["utilisation"])
    memory.pool.check()
    arena.check()
    return {
        "tensors": len(tensors),
        "utilisation": float(np.median(used)),
        "waste": float(np.median(waste)),
        "waste_p99": float(np.percentile(waste, 99)),
        "padding": memory.stats()["padding"],
        "refused": refused,
    }


def _planning(channels: int, sizes: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Seconds to place 10,000 small tensors by one plan, and to move them to another's channels."""
    small = sizes[sizes <= 64 << 10]
    wanted = rng.choice(small, PLANNED)
    _, memory = _memory(1024, ChannelPlan.by_class(channels, latency_alone=True), rng)
    start = time.perf_counter()
    for k, size in enumerate(wanted.tolist()):
        memory.place("tenant", _CLASSES[k % 2], size)
    placed = time.perf_counter() - start
    start = time.perf_counter()
    left = memory.replan(ChannelPlan.by_class(channels, best_effort_share=0.5))
    moved = time.perf_counter() - start
    if left:
        raise RuntimeError(f"{left} tensors could not move to the channels of another plan")
    return placed, moved
