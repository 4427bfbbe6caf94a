"""What does a request pay for a model that is not on the device?

Every model is evicted before each request, on the bare link and on emulated buses of 40 % and 10 %
of this machine's copy. *bound* is what no order of the same copies and segments can beat: the
largest, over the groups k, of the time by which group k can have arrived plus the compute of the
segments from the first that needs it on. Copies and segments are measured: copies in the same
requests; segments beside the copies on the bare link, for all buses on which a model is cut in as
many, and in the same requests where it is not.

On the bare link the latency is taken apart, after Torpor (arXiv:2306.03622, section on swapping),
each way of bringing a model adding something to the one before it: `jax.device_put` of all
parameters, then the whole model; a copy of all groups into the arena, then the whole; each
parameter by itself, with segments starting as theirs arrive; groups of parameters, which is what
the runtime does; and the same while the request waits behind that of another model, counted from
the end of that one.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from rich.console import Console

import missile_jax.models as zoo
from benchmarks.report import Report
from benchmarks.workloads import items
from missile_jax import CopyRecord, LaunchRecord, Model, Runtime
from missile_jax.memory.residence import Residence
from missile_jax.memory.store import Store
from missile_jax.models.layers import random_variables
from missile_jax.models.minilm import MiniLM
from missile_jax.program.plan import Plan

# Rates of the buses that are played, of the bare link's.
EMULATED = {"40 %": 0.4, "10 %": 0.1}
DEVICE_MEMORY = "1500MiB"
QUICK = ("mobilenet", "resnet152", "bert-base")
# Whose requests others wait behind: on the device all the time, and longer than any copy.
_AHEAD = "ahead"
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

    new_ns, reused_ns: what arrays took in swap-ins that made any anew, and in those that did not.
    """

    resident_ns: list[int] = field(default_factory=list)
    swapped_ns: list[int] = field(default_factory=list)
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
                row = _row(runtime, bus, subject, seen[bus], seen["bare"])
                if bus == "bare":
                    row |= ways.medians_ms() | {"grouped_ms": row["swapped_ms"]}
                report.rows.append(row)
                runtime.unload(subject.name)
            ways.unload(subject)
    report.summary |= _summary(report.rows)
    return report


class Ways:
    """The other ways of bringing a model to the device of `runtime`, whose link is bare."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        # As large, and each parameter is a group.
        self._each = Runtime(device_memory=DEVICE_MEMORY)
        memory = self._each._memory
        assert memory is not None
        memory.store = Store(1, memory.arena.alignment)
        self._times_ns: dict[str, list[int]] = {}

    def __enter__(self) -> Ways:
        self._each.start()
        net = zoo.load("resnet50", random_weights=True)
        self._ahead_inputs = net.example
        self._runtime.load(
            _AHEAD, model=net.module, params=net.variables, example=net.example,
            priority="latency", pinned=True,
        )  # fmt: skip
        self._runtime.infer(_AHEAD, net.example)
        return self

    def __exit__(self, *_: object) -> None:
        self._each.close()

    def load(self, subject: Subject) -> None:
        self._each.load(subject.model)
        self._each.infer(subject.name, subject.inputs)
        parameters = self._each._mux.table[subject.name].parameters
        with parameters.use(_plan(self._each, subject).whole) as arrays:
            # As plans take them: small parameters lie in one array, whoever brings them.
            self._parameters = [None if a is None else _unaligned(a) for a in arrays]
        self._times_ns = {}

    def unload(self, subject: Subject) -> None:
        self._each.unload(subject.name)

    def measure(self, subject: Subject) -> None:
        """Once in each way."""
        for name, way in (
            ("device_put_ms", self._device_put),
            ("copied_ms", self._copied),
            ("each_ms", self._by_parameter),
            ("prefetched_ms", self._prefetched),
        ):
            self._times_ns.setdefault(name, []).append(way(subject))

    def medians_ms(self) -> dict[str, float]:
        return {name: float(np.median(t)) / 1e6 for name, t in self._times_ns.items()}

    def _device_put(self, subject: Subject) -> int:
        plan = _plan(self._runtime, subject)
        start = time.perf_counter_ns()
        leaves = jax.device_put(self._parameters, may_alias=False)
        jax.block_until_ready(leaves)
        _answer(plan, leaves, subject)
        return time.perf_counter_ns() - start

    def _copied(self, subject: Subject) -> int:
        engine = self._runtime._mux
        parameters, plan = engine.table[subject.name].parameters, _plan(self._runtime, subject)
        self._runtime.evict(subject.name)
        start = time.perf_counter_ns()
        with engine.lock:
            parameters.update(True, False, (0, 0))
            while not parameters.complete:
                assert engine.memory is not None
                engine.memory.wait(1.0)
        with parameters.use(plan.whole) as leaves:
            _answer(plan, leaves, subject)
        took = time.perf_counter_ns() - start
        with engine.lock:
            parameters.update(False, True, (0, 0))
            parameters.update(False, False, (0, 0))
        return took

    def _by_parameter(self, subject: Subject) -> int:
        self._each.evict(subject.name)
        return _time(self._each, subject)

    def _prefetched(self, subject: Subject) -> int:
        self._runtime.evict(subject.name)
        ends: dict[str, int] = {}

        def note(name: str) -> Callable[[Future], None]:
            def done(_: Future) -> None:
                ends[name] = time.perf_counter_ns()

            return done

        waiting = []
        for name, inputs in ((_AHEAD, self._ahead_inputs), (subject.name, subject.inputs)):
            future = self._runtime.submit(name, inputs)
            future.add_done_callback(note(name))
            waiting.append(future)
        for future in waiting:
            future.result()
        self._runtime.run_until_idle()
        return ends[subject.name] - ends[_AHEAD]


def _unaligned(leaf: jax.Array) -> np.ndarray:
    """The leaf, not at 64 bytes: what is, becomes an array on a CPU as it is, without a copy."""
    source = np.asarray(leaf)
    space = np.empty(source.nbytes + 128, np.uint8)
    start = -space.ctypes.data % 64 + 8
    target = space[start : start + source.nbytes].view(source.dtype).reshape(source.shape)
    target[...] = source
    return target


def _plan(runtime: Runtime, subject: Subject) -> Plan:
    (plan,) = runtime._mux.table[subject.name].program.plans.values()
    return plan


def _answer(plan: Plan, leaves: Sequence[jax.Array | None], subject: Subject) -> None:
    """Runs the whole, and waits for its results on the host."""
    for result in plan.run(leaves, jax.tree.leaves(subject.inputs), whole=True):
        np.asarray(result)


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
    """A swapped-out request, then one that finds everything in place."""
    residence = runtime._mux.table[subject.name].parameters
    assert isinstance(residence, Residence)
    if not residence.counters.swap_ins:
        _time(runtime, subject)
        seen.new_ns.append(residence.counters.array_creation_ns)
    runtime.evict(subject.name)
    launches.clear()
    copies.clear()
    before = replace(residence.counters)
    seen.swapped_ns.append(_time(runtime, subject))
    new = residence.counters.arrays_created > before.arrays_created
    took_ns = residence.counters.array_creation_ns - before.array_creation_ns
    (seen.new_ns if new else seen.reused_ns).append(took_ns)
    for copy in copies:
        seen.copies[copy.group].append(copy.ended_ns - copy.started_ns)
    for launch in launches:
        seen.segments[launch.index].append(launch.ended_ns - launch.started_ns)
    _time(runtime, subject)
    seen.resident_ns.append(_time(runtime, subject))


def _time(runtime: Runtime, subject: Subject) -> int:
    start = time.perf_counter_ns()
    runtime.infer(subject.name, subject.inputs)
    return time.perf_counter_ns() - start


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


def _row(runtime: Runtime, bus: str, subject: Subject, seen: Seen, on_bare: Seen) -> dict[str, Any]:
    residence, plan = runtime._mux.table[subject.name].parameters, _plan(runtime, subject)
    assert isinstance(residence, Residence)
    segments = plan.segments
    medians = {k: float(np.median(v)) for k, v in seen.copies.items()}
    arrivals = np.cumsum([medians[k] for k in sorted(medians)])
    # Segments beside the copies of the bare link; on this bus, where it has cut in other places.
    beside = on_bare if len(segments) == len(on_bare.segments) else seen
    if len(segments) == len(beside.segments):
        computes = [float(np.median(beside.segments[k])) for k in sorted(beside.segments)]
    else:  # It ran whole.
        computes = _alone_ns(plan, subject, residence)
    if len(seen.segments) == 1:
        segments, computes = (plan.whole,), [float(sum(computes))]
    needs, most = [], 0
    for segment in segments:
        most = max(most, max(residence.needs(segment), default=-1) + 1)
        needs.append(most)
    bound = bound_ns(arrivals, computes, needs)
    swapped, resident = np.median(seen.swapped_ns), np.median(seen.resident_ns)
    stats = residence.stats()
    leaves = len(jax.tree.leaves(subject.model.params))
    return {
        "model": subject.name,
        "bus": bus,
        "parameter_mb": residence.nbytes / 1e6,
        "leaves": leaves,
        "arrays": stats["arrays"],
        "groups": len(residence.host.groups),
        "segments": len(segments),
        "heavy": stats["heavy"],
        "resident_ms": resident / 1e6,
        "swapped_ms": swapped / 1e6,
        "bound_ms": bound / 1e6,
        "transfer_ms": arrivals[-1] / 1e6,
        "ratio_to_bound": (swapped / 1e6 - ALLOWED_MS) / (bound / 1e6),
        "ratio_to_resident": swapped / resident,
        "array_creation_us": float(np.mean(seen.new_ns + seen.reused_ns)) / 1e3,
        "us_per_new_leaf": float(np.median(seen.new_ns)) / 1e3 / leaves,
        "us_per_leaf": float(np.median(seen.reused_ns or seen.new_ns)) / 1e3 / leaves,
    }


def _alone_ns(plan: Plan, subject: Subject, residence: Residence) -> list[float]:
    """Times of the segments one after the other, with all parameters in place."""
    times: list[list[int]] = [[] for _ in plan.segments]
    with residence.use(plan.whole) as leaves:
        for _ in range(6):
            slots = plan.start(jax.tree.leaves(subject.inputs))
            for k, segment in enumerate(plan.segments):
                start = time.perf_counter_ns()
                jax.block_until_ready(segment.run(leaves, slots))
                times[k].append(time.perf_counter_ns() - start)
    return [float(np.median(t[1:])) for t in times]


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    light = [row["ratio_to_resident"] for row in rows if not row["heavy"]]
    return {
        "ratio_to_bound_max": max(row["ratio_to_bound"] for row in rows),
        "ratio_to_resident_light_max": max(light, default=None),
        "us_per_leaf_max": max(row["us_per_leaf"] for row in rows),
        "us_per_new_leaf_max": max(row["us_per_new_leaf"] for row in rows),
        "light_rows": len(light),
    } | {f"ratio_to_bound.{row['model']}.{row['bus']}": row["ratio_to_bound"] for row in rows}
