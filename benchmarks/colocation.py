"""Does latency-sensitive work keep its tail while best-effort work takes what is left?

SqueezeNet answers Poisson arrivals of photos; best-effort models run as fast as they are let. Every
policy serves the same arrivals, in turns. *ideal* is no policy: it simulates the arrivals at one
server whose service time is the one measured back to back in the same run.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import arrivals, single_server
from benchmarks.load import BestEffort, back_to_back_s, latency_stream, throughput
from benchmarks.report import Report, p99_interval_ms, percentiles
from benchmarks.workloads import MIXES, WORKS, best_effort_model, latency_model
from missile_jax import LaunchRecord, Missile, Runtime

LOADS = (10, 30, 60)
POLICIES = ("concurrent", "fifo", "missile")
# As on a device whose threads do not yield: an LS launch runs beside a BE segment, or after it.
_MAKE: dict[str, Any] = {
    "missile-cut": Missile(yielding=False),
    "missile-after": Missile(yielding=False, beside=False),
}
# Of LS traffic before and behind the requests that count.
_BEFORE_S, _AFTER_S = 1.5, 2.0


@dataclass(frozen=True, slots=True)
class Settings:
    """requests: behind each figure, over all repeats; fewer where they would take longer than
    `longest_s` in a turn. alone_s: a throughput reference's length.
    """

    mixes: Sequence[str]
    policies: Sequence[str]
    requests: int
    repeats: int
    longest_s: float
    alone_s: float
    seed: int
    trace: Path | None


@dataclass(frozen=True, slots=True)
class Turn:
    """One stretch of arrivals under one policy.

    latencies_s: [n] of the requests that count. late_s: [n] how late they were sent; [0] if none
        was, as in the reference that is simulated.
    seconds: from when the first of them was due to when the last was done.
    service_s: of an LS request back to back, in the same repeat.
    rates: items a second by best-effort work. longest_be_ns: its longest launch meanwhile.
    """

    latencies_s: np.ndarray
    late_s: np.ndarray
    seconds: float
    service_s: float
    rates: Mapping[str, float]
    longest_be_ns: int

    def leftover(self) -> float:
        """What LS really left of the device: drawn arrivals scatter about their rate."""
        return max(1.0 - len(self.latencies_s) / self.seconds * self.service_s, 0.01)


@dataclass(slots=True)
class Measured:
    """What a run found. turns: by policy (or reference), mix and load, one a repeat."""

    service_s: list[float] = field(default_factory=list)
    alone_rates: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    turns: dict[tuple[str, str, int], list[Turn]] = field(default_factory=lambda: defaultdict(list))
    longest_segment_ms: float = 0.0


def settings(quick: bool, seed: int, trace: Path | None, policies: Sequence[str]) -> Settings:
    if quick:
        return Settings(("resnet50-b4",), policies, 300, 1, 4.0, 3.0, seed, trace)
    return Settings(tuple(MIXES), policies, 1002, 3, math.inf, 6.0, seed, trace)


def run(chosen: Settings, console: Console) -> tuple[Report, dict[str, np.ndarray]]:
    """The report, and the raw latencies in seconds by row."""
    bench = _Bench(chosen, console)
    with bench:
        for repeat in range(chosen.repeats):
            bench.round(repeat)
        bench.measured.longest_segment_ms = bench.longest_segment_ms()
    return summarise(bench.measured, chosen.policies, chosen.seed)


class _Bench:
    """One runtime for each policy, all loaded, one busy at a time."""

    def __init__(self, chosen: Settings, console: Console) -> None:
        self.measured = Measured()
        self._chosen = chosen
        self._console = console
        self._stack = ExitStack()
        self._runtimes: dict[str, Runtime] = {}
        self._inputs: dict[str, list[Any]] = {}

    def __enter__(self) -> _Bench:
        for policy in self._chosen.policies:
            runtime = Runtime(policy=_MAKE.get(policy, policy))
            self._runtimes[policy] = self._stack.enter_context(runtime)
        works = sorted({name for mix in self._chosen.mixes for name in MIXES[mix]})
        latency, self._inputs["ls"], _ = latency_model()
        models = [latency]
        for name in works:
            model, self._inputs[name], _ = best_effort_model(WORKS[name])
            models.append(model)
        for policy, runtime in self._runtimes.items():
            for model in models:
                self._console.print(f"[dim]{policy}: loading {model.name}[/]")
                runtime.load(model)
        self._ls = latency.name
        self._works = works
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def round(self, repeat: int) -> None:
        """One repeat: references, then every load and mix, the policies in rotating order."""
        chosen, ls = self._chosen, self._inputs["ls"]
        any_runtime = self._runtimes[chosen.policies[-1]]
        for name in self._works:
            batch = {name: WORKS[name].batch}
            rate = throughput(any_runtime, {name: self._inputs[name]}, batch, chosen.alone_s)
            self.measured.alone_rates[name].append(rate[name])
        turn = itertools.count(repeat)
        for load in LOADS:
            back_to_back_s(any_runtime, self._ls, ls, 20)
            service_s = back_to_back_s(any_runtime, self._ls, ls, 100)
            self.measured.service_s.append(service_s)
            seed = chosen.seed + 1000 * repeat + load
            rate_per_s = load / 100 / service_s
            count = chosen.requests // chosen.repeats
            if count > chosen.longest_s * rate_per_s:
                count = math.ceil(chosen.longest_s * rate_per_s)
            before, after = round(rate_per_s * _BEFORE_S), round(rate_per_s * _AFTER_S)
            times = self._arrivals(rate_per_s, before + count + after, seed)
            counted = slice(before, before + count)
            ideal = single_server.in_order(times, service_s)[counted]
            due = times[counted]
            seconds = float(due[-1] + ideal[-1] - due[0])
            self.measured.turns["ideal", "", load].append(
                Turn(ideal, np.zeros(0), seconds, service_s, {}, 0)
            )
            self._measure("alone", any_runtime, "", load, times, counted, service_s)
            for mix in chosen.mixes:
                order = list(chosen.policies)
                shift = next(turn) % len(order)
                for policy in order[shift:] + order[:shift]:
                    runtime = self._runtimes[policy]
                    self._measure(policy, runtime, mix, load, times, counted, service_s)

    def _arrivals(self, rate_per_s: float, count: int, seed: int) -> np.ndarray:
        if self._chosen.trace is not None:
            return arrivals.from_trace(self._chosen.trace, rate_per_s, count, seed)
        return arrivals.poisson(rate_per_s, count, seed)

    def _measure(
        self,
        policy: str,
        runtime: Runtime,
        mix: str,
        load: int,
        times: np.ndarray,
        counted: slice,
        service_s: float,
    ) -> None:
        names = MIXES[mix] if mix else ()
        launches: list[LaunchRecord] = []
        with (
            runtime.observed(launches.append, lambda _: None),
            BestEffort(runtime, {name: self._inputs[name] for name in names}) as work,
        ):
            seen, start_s, end_s = latency_stream(
                runtime, self._ls, self._inputs["ls"], times, counted
            )
        rates = work.rates({name: WORKS[name].batch for name in names}, start_s, end_s)
        longest_ns = longest_best_effort_ns(launches, start_s, end_s)
        self.measured.turns[policy, mix, load].append(
            Turn(seen.latencies_s, seen.late_s, end_s - start_s, service_s, rates, longest_ns)
        )
        p99 = np.percentile(seen.latencies_s, 99) * 1e3
        self._console.print(f"[dim]{load} % {mix or '-'} {policy}: p99 {p99:.1f} ms[/]")

    def longest_segment_ms(self) -> float:
        """Of the plans, whether or not a policy ran them in segments."""
        stats = self._runtimes[self._chosen.policies[-1]].stats()["models"]
        return max(
            plan["longest_segment_ms"] for name in self._works for plan in stats[name]["plans"]
        )


def longest_best_effort_ns(launches: Sequence[LaunchRecord], start_s: float, end_s: float) -> int:
    """The longest best-effort launch of those that ran at any time between two; 0 for none."""
    return max(
        (
            one.ended_ns - one.started_ns
            for one in launches
            if not one.latency and one.ended_ns > start_s * 1e9 and one.started_ns < end_s * 1e9
        ),
        default=0,
    )


def summarise(
    measured: Measured, policies: Sequence[str], seed: int
) -> tuple[Report, dict[str, np.ndarray]]:
    """The report, a row for each policy, mix and load, and the raw latencies in seconds by row."""
    report = Report("colocation", seed)
    alone = {name: float(np.mean(rates)) for name, rates in measured.alone_rates.items()}
    raw: dict[str, np.ndarray] = {}
    for (policy, mix, load), turns in measured.turns.items():
        latencies = np.concatenate([turn.latencies_s for turn in turns])
        low, high = p99_interval_ms(latencies, seed)
        row: dict[str, Any] = {"policy": policy, "mix": mix, "load_percent": load}
        row |= percentiles(latencies) | {"p99_low_ms": low, "p99_high_ms": high}
        row["requests"] = len(latencies)
        if mix:
            row |= _best_effort(turns, alone)
        raw[f"{policy}.{mix}.{load}"] = latencies
        report.rows.append(row)
    late = np.concatenate([turn.late_s for turns in measured.turns.values() for turn in turns])
    report.summary = _worst(report.rows, policies) | {
        "ls_service_ms": float(np.median(measured.service_s)) * 1e3,
        "longest_segment_ms": measured.longest_segment_ms,
        "sent_late_p99_ms": float(np.percentile(late, 99)) * 1e3,
    }
    for name, rate in alone.items():
        report.summary[f"be_alone_items_per_s.{name}"] = rate
    return report, raw


def _best_effort(turns: Sequence[Turn], alone: Mapping[str, float]) -> dict[str, float]:
    shares = [
        sum(rate / alone[name] for name, rate in turn.rates.items()) / turn.leftover()
        for turn in turns
    ]
    return {
        "be_items_per_s": float(np.mean([sum(turn.rates.values()) for turn in turns])),
        "be_share_of_leftover": float(np.mean(shares)),
        "longest_be_launch_ms": max(turn.longest_be_ns for turn in turns) / 1e6,
    }


def _worst(rows: Sequence[dict[str, Any]], policies: Sequence[str]) -> dict[str, Any]:
    """The worst over the mixes at each load."""
    summary: dict[str, Any] = {}
    for load in LOADS:
        here = [row for row in rows if row["load_percent"] == load]
        for reference in ("ideal", "alone"):
            (row,) = [r for r in here if r["policy"] == reference]
            summary[f"ls_p99_{reference}_ms.{load}"] = row["p99_ms"]
        for policy in policies:
            mine = [r for r in here if r["policy"] == policy]
            summary[f"ls_p99_ms.{policy}.{load}"] = max(r["p99_ms"] for r in mine)
            for figure in ("be_items_per_s", "be_share_of_leftover"):
                summary[f"{figure}.{policy}.{load}"] = min(r[figure] for r in mine)
        limit = 1.25 * summary[f"ls_p99_ideal_ms.{load}"] + 2.0
        summary[f"ls_p99_limit_ms.{load}"] = limit
    for policy in policies:
        longest = [r["longest_be_launch_ms"] for r in rows if r["policy"] == policy]
        summary[f"longest_be_launch_ms.{policy}"] = max(longest)
    return summary
