"""What does a request pay for a model that is not on the device?

Every model is evicted before each request, on the bare link and on emulated buses of 40 % and 10 %
of this machine's copy. *bound* is what no order of the same copies and segments can beat: the
largest, over the groups k, of the time by which group k can have arrived plus the compute of the
segments from the first that needs it on. Copies and segments are measured, in the same requests.
*floor* is what no cut and no order can beat while processors make the copies: the processor time of
a request that finds its model in place, and that of a copy of all groups by itself, shared out over
all processors; no less than either takes alone.

On the bare link the latency is taken apart, after Torpor (arXiv:2306.03622, section on swapping),
each way of bringing a model adding something to the one before it: `jax.device_put` of all
parameters, then the whole model; a copy of all groups into the arena, then the whole; each
parameter by itself, with segments starting as theirs arrive where that is sooner; groups of
parameters, which is what the runtime does; and the same while the request waits behind that of
another model, counted from the end of that one.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from rich.console import Console

import missile_jax.models as zoo
from benchmarks.report import Report
from benchmarks.ways import DEVICE_MEMORY, Ways, brought, plan_of, timed
from benchmarks.workloads import items
from missile_jax import CopyRecord, LaunchRecord, Model, Runtime
from missile_jax.memory.residence import Residence
from missile_jax.models.layers import random_variables
from missile_jax.models.minilm import MiniLM

# Rates of the buses that are played, of the bare link's.
EMULATED = {"40 %": 0.4, "10 %": 0.1}
QUICK = ("mobilenet", "minilm")
# What a request may take beyond the bound's tenth: waking threads, and the engine.
ALLOWED_MS = 1.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to swap."""

    name: str
    model: Model
    inputs: Any


@dataclass(slots=True)
class Seen:
    """One model on one bus. Times in ns.

    resident_cpu_ns, copy_cpu_ns: of processors, for a request that finds its model in place, and
    for the copy of all groups. copies: by how many groups are there with each.
    new_ns, reused_ns: what arrays took in swap-ins that made any anew, and in those that did not.
    """

    resident_ns: list[int] = field(default_factory=list)
    resident_cpu_ns: list[int] = field(default_factory=list)
    swapped_ns: list[int] = field(default_factory=list)
    copy_cpu_ns: list[int] = field(default_factory=list)
    copies: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    segments: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    new_ns: list[int] = field(default_factory=list)
    reused_ns: list[int] = field(default_factory=list)


def run(quick: bool, seed: int, console: Console) -> Report:
    report = Report("swap", seed)
    launches: list[LaunchRecord] = []
    copies: list[CopyRecord] = []
    with ExitStack() as stack:

        def opened(link_bytes_per_s: float | None) -> Runtime:
            return stack.enter_context(
                Runtime(
                    device_memory=DEVICE_MEMORY,
                    link_bytes_per_s=link_bytes_per_s,
                    observer=launches.append,
                    copy_observer=copies.append,
                )
            )

        runtimes = {"bare": opened(None)}
        memory = runtimes["bare"]._memory
        assert memory is not None
        rate = memory.link_bytes_per_s
        runtimes |= {bus: opened(share * rate) for bus, share in EMULATED.items()}
        report.summary["copy_bytes_per_s"] = rate
        ways = stack.enter_context(Ways(runtimes["bare"]))
        for subject in subjects(QUICK if quick else (*zoo.names(), "bert-base")):
            console.print(f"[dim]loading {subject.name}[/]")
            for runtime in runtimes.values():
                runtime.load(subject.model)
            ways.load(subject)
            seen = {bus: Seen() for bus in runtimes}
            for repeat in range(3 if quick else 15):
                console.print(f"[dim]{subject.name}, {repeat}[/]")
                for bus, runtime in runtimes.items():
                    _measure(runtime, subject, seen[bus], launches, copies)
                ways.measure(subject)
            for bus, runtime in runtimes.items():
                row = _row(runtime, bus, subject, seen[bus])
                if bus == "bare":
                    row |= ways.medians_ms() | {"grouped_ms": row["swapped_ms"]}
                report.rows.append(row)
                runtime.unload(subject.name)
            ways.unload(subject)
    report.summary |= _summary(report.rows)
    return report


def subjects(names: Sequence[str]) -> Iterator[Subject]:
    """Models of the zoo, and "bert-base", which is as large; batch 1, latency-sensitive."""
    for name in names:
        if name == "bert-base":
            tokens = {name: np.ones((1, 64), np.int32) for name in ("input_ids", "attention_mask")}
            base = MiniLM(width=768, layers=12, heads=12, hidden=3072)
            variables = random_variables(base, tokens, 0)
            yield _subject("bert-base", base, variables, tokens, tokens)
            continue
        net = zoo.load(name, random_weights=True)
        inputs = items(net, 1)[0] if name != "minilm" else net.example
        yield _subject(name, net.module, net.variables, net.example, inputs)


def _subject(name: str, module: Any, variables: Any, example: Any, inputs: Any) -> Subject:
    model = Model(name, module, variables, example=example, priority="latency")
    return Subject(name, model, inputs)


def _measure(
    runtime: Runtime,
    subject: Subject,
    seen: Seen,
    launches: list[LaunchRecord],
    copies: list[CopyRecord],
) -> None:
    """A swapped-out request, then one that finds everything in place, then a copy alone."""
    residence = runtime._mux.table[subject.name].parameters
    assert isinstance(residence, Residence)
    if not residence.counters.swap_ins:
        timed(runtime, subject)
        seen.new_ns.append(residence.counters.array_creation_ns)
    runtime.evict(subject.name)
    launches.clear()
    copies.clear()
    before = replace(residence.counters)
    seen.swapped_ns.append(timed(runtime, subject))
    new = residence.counters.arrays_created > before.arrays_created
    took_ns = residence.counters.array_creation_ns - before.array_creation_ns
    (seen.new_ns if new else seen.reused_ns).append(took_ns)
    last_ns = 0
    for copy in sorted(copies, key=lambda copy: copy.group):
        # Two threads begin one before the end of another.
        began_ns = max(copy.started_ns, last_ns)
        seen.copies[copy.group + copy.groups].append(max(0, copy.ended_ns - began_ns))
        last_ns = max(last_ns, copy.ended_ns)
    for launch in launches:
        seen.segments[launch.index].append(launch.ended_ns - launch.started_ns)
    timed(runtime, subject)
    start = time.process_time_ns()
    seen.resident_ns.append(timed(runtime, subject))
    seen.resident_cpu_ns.append(time.process_time_ns() - start)
    runtime.evict(subject.name)
    start = time.process_time_ns()
    with brought(runtime, subject.name):
        seen.copy_cpu_ns.append(time.process_time_ns() - start)


def bound_ns(
    arrivals_ns: Sequence[float] | np.ndarray, computes_ns: Sequence[float], needs: Sequence[int]
) -> float:
    """The least time in which segments can run whose groups arrive one after the other.

    arrivals_ns: by which each group has arrived. computes_ns: of each segment. needs: the number of
    groups that have to be there before each segment, ascending.
    """
    done = 0.0
    for compute, need in zip(computes_ns, needs, strict=True):
        done = max(done, arrivals_ns[need - 1] if need else 0.0) + compute
    return done


def floor_ns(resident_ns: float, transfer_ns: float, cpu_ns: float, processors: int) -> float:
    """The least time in which so many processors can copy and compute.

    cpu_ns: of processors, for both together.
    """
    return max(resident_ns, transfer_ns, cpu_ns / processors)


def _row(runtime: Runtime, bus: str, subject: Subject, seen: Seen) -> dict[str, Any]:
    residence, plan = runtime._mux.table[subject.name].parameters, plan_of(runtime, subject)
    assert isinstance(residence, Residence)
    medians = {k: float(np.median(v)) for k, v in seen.copies.items()}
    groups = len(residence.host.groups)
    arrivals = np.cumsum([medians.get(k, 0.0) for k in range(1, groups + 1)])
    # As most requests ran: whole, or in segments.
    whole = 2 * len(seen.segments[-1]) > len(seen.swapped_ns)
    segments = (plan.whole,) if whole else plan.segments
    launches = [-1] if whole else range(len(segments))
    computes = [float(np.median(seen.segments[k])) for k in launches]
    needs, most = [], 0
    for segment in segments:
        most = max(most, max(residence.needs(segment), default=-1) + 1)
        needs.append(most)
    bound = bound_ns(arrivals, computes, needs)
    swapped, resident = np.median(seen.swapped_ns), np.median(seen.resident_ns)
    cpu, copy_cpu = np.median(seen.resident_cpu_ns), np.median(seen.copy_cpu_ns)
    processors = len(os.sched_getaffinity(0))
    floor = floor_ns(float(resident), arrivals[-1], float(cpu + copy_cpu), processors)
    stats = residence.stats()
    leaves = len(jax.tree.leaves(subject.model.params))
    return {
        "model": subject.name,
        "bus": bus,
        "parameter_mb": residence.nbytes / 1e6,
        "leaves": leaves,
        "arrays": stats["arrays"],
        "groups": groups,
        "copies": len(medians),
        "segments": len(plan.segments),
        "launches": len(segments),
        "heavy": stats["heavy"],
        "resident_ms": resident / 1e6,
        "swapped_ms": swapped / 1e6,
        "bound_ms": bound / 1e6,
        "transfer_ms": arrivals[-1] / 1e6,
        "floor_ms": floor / 1e6,
        "resident_cpu_ms": cpu / 1e6,
        "copy_cpu_ms": copy_cpu / 1e6,
        "ratio_to_bound": (swapped / 1e6 - ALLOWED_MS) / (bound / 1e6),
        "ratio_to_resident": swapped / resident,
        "floor_to_resident": floor / resident,
        "array_creation_us": float(np.mean(seen.new_ns + seen.reused_ns)) / 1e3,
        "us_per_new_leaf": float(np.median(seen.new_ns)) / 1e3 / leaves,
        "us_per_leaf": float(np.median(seen.reused_ns or seen.new_ns)) / 1e3 / leaves,
    }


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    light = [row for row in rows if not row["heavy"]]
    summary = {
        "ratio_to_bound_max": max(row["ratio_to_bound"] for row in rows),
        "us_per_leaf_max": max(row["us_per_leaf"] for row in rows),
        "us_per_new_leaf_max": max(row["us_per_new_leaf"] for row in rows),
        "light_rows": len(light),
        "ratio_to_resident_light_max": max(
            (row["ratio_to_resident"] for row in light), default=None
        ),
        "light_floor_max": max((row["floor_to_resident"] for row in light), default=None),
    }
    for bus in dict.fromkeys(row["bus"] for row in light):
        own = [row for row in light if row["bus"] == bus]
        summary[f"ratio_to_resident_light_max.{bus}"] = max(r["ratio_to_resident"] for r in own)
        summary[f"light_floor_max.{bus}"] = max(r["floor_to_resident"] for r in own)
    return summary | {
        f"ratio_to_bound.{row['model']}.{row['bus']}": row["ratio_to_bound"] for row in rows
    }
