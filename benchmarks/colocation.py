"""Does latency-sensitive work keep its tail while best-effort work takes what is left?

SqueezeNet answers Poisson arrivals of photos; best-effort models run as fast as they are let. Every
policy serves the same arrivals, in turns. *ideal* is no policy: it simulates the arrivals at one
server whose service time is the one measured back to back in the same run.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import arrivals
from benchmarks.load import BestEffort, back_to_back_s, latency_stream, throughput
from benchmarks.report import Report, p99_interval_ms, percentiles
from benchmarks.workloads import MIXES, WORKS, best_effort_model, latency_model
from missile_jax import Missile, Runtime

LOADS = (10, 30, 60)
POLICIES = ("concurrent", "fifo", "missile")
_MAKE: dict[str, Any] = {"missile-after": Missile(beside=False)}
# Of LS traffic before and behind the requests that count.
_BEFORE_S, _AFTER_S = 1.5, 2.0


@dataclass(frozen=True, slots=True)
class Settings:
    """requests: behind each figure, over all repeats. alone_s: a throughput reference's length."""

    mixes: Sequence[str]
    policies: Sequence[str]
    requests: int
    repeats: int
    alone_s: float
    seed: int
    trace: Path | None


def settings(quick: bool, seed: int, trace: Path | None, policies: Sequence[str]) -> Settings:
    if quick:
        return Settings(("resnet50-b4", "all-four"), policies, 300, 1, 6.0, seed, trace)
    return Settings(tuple(MIXES), policies, 1002, 3, 6.0, seed, trace)


def run(chosen: Settings, console: Console) -> tuple[Report, dict[str, np.ndarray]]:
    """The report, and the raw latencies in seconds by row."""
    bench = _Bench(chosen, console)
    with bench:
        for repeat in range(chosen.repeats):
            bench.round(repeat)
    return bench.report()


class _Bench:
    """One runtime for each policy, all loaded, one busy at a time."""

    def __init__(self, chosen: Settings, console: Console) -> None:
        self._chosen = chosen
        self._console = console
        self._stack = ExitStack()
        self._runtimes: dict[str, Runtime] = {}
        self._inputs: dict[str, list[Any]] = {}
        self._service_s: list[float] = []
        self._alone_rates: dict[str, list[float]] = defaultdict(list)
        self._latencies: dict[tuple[str, str, int], list[np.ndarray]] = defaultdict(list)
        self._rates: dict[tuple[str, str, int], list[dict[str, float]]] = defaultdict(list)
        self._load: dict[tuple[str, str, int], list[float]] = defaultdict(list)
        self._late: list[float] = []

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
            self._alone_rates[name].append(rate[name])
        count = chosen.requests // chosen.repeats
        turn = itertools.count(repeat)
        for load in LOADS:
            back_to_back_s(any_runtime, self._ls, ls, 20)
            service_s = back_to_back_s(any_runtime, self._ls, ls, 100)
            self._service_s.append(service_s)
            seed = chosen.seed + 1000 * repeat + load
            rate_per_s = load / 100 / service_s
            before, after = round(rate_per_s * _BEFORE_S), round(rate_per_s * _AFTER_S)
            times = self._arrivals(rate_per_s, before + count + after, seed)
            counted = slice(before, before + count)
            ideal = arrivals.single_server(times, service_s)[counted]
            self._latencies["ideal", "", load].append(ideal)
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
        key = (policy, mix, load)
        with BestEffort(runtime, {name: self._inputs[name] for name in names}) as work:
            seen, start_s, end_s = latency_stream(
                runtime, self._ls, self._inputs["ls"], times, counted
            )
        self._latencies[key].append(seen.latencies_s)
        self._late.extend(seen.late_s)
        self._rates[key].append(
            work.rates({name: WORKS[name].batch for name in names}, start_s, end_s)
        )
        # What LS really used of the window: drawn arrivals scatter about their rate.
        self._load[key].append(len(seen.latencies_s) * service_s / (end_s - start_s))
        p99 = np.percentile(seen.latencies_s, 99) * 1e3
        self._console.print(f"[dim]{load} % {mix or '-'} {policy}: p99 {p99:.1f} ms[/]")

    def report(self) -> tuple[Report, dict[str, np.ndarray]]:
        report = Report("colocation", self._chosen.seed)
        alone = {name: float(np.mean(rates)) for name, rates in self._alone_rates.items()}
        raw: dict[str, np.ndarray] = {}
        for (policy, mix, load), parts in self._latencies.items():
            latencies = np.concatenate(parts)
            low, high = p99_interval_ms(latencies, self._chosen.seed)
            row: dict[str, Any] = {"policy": policy, "mix": mix, "load_percent": load}
            row |= percentiles(latencies) | {"p99_low_ms": low, "p99_high_ms": high}
            row["requests"] = len(latencies)
            if mix:
                row |= self._best_effort(policy, mix, load, alone)
            raw[f"{policy}.{mix}.{load}"] = latencies
            report.rows.append(row)
        report.summary = self._summary(report.rows) | {
            "ls_service_ms": float(np.median(self._service_s)) * 1e3,
            "longest_segment_ms": self._longest_segment_ms(),
            "sent_late_p99_ms": float(np.percentile(self._late, 99)) * 1e3,
        }
        for name, rate in alone.items():
            report.summary[f"be_alone_items_per_s.{name}"] = rate
        return report, raw

    def _best_effort(
        self, policy: str, mix: str, load: int, alone: dict[str, float]
    ) -> dict[str, float]:
        key = (policy, mix, load)
        shares = []
        for rates, used in zip(self._rates[key], self._load[key], strict=True):
            progress = sum(rate / alone[name] for name, rate in rates.items())
            shares.append(progress / max(1.0 - used, 0.01))
        items = [sum(rates.values()) for rates in self._rates[key]]
        return {
            "be_items_per_s": float(np.mean(items)),
            "be_share_of_leftover": float(np.mean(shares)),
        }

    def _summary(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The worst over the mixes at each load."""
        summary: dict[str, Any] = {}
        for load in LOADS:
            here = [row for row in rows if row["load_percent"] == load]
            for reference in ("ideal", "alone"):
                (row,) = [r for r in here if r["policy"] == reference]
                summary[f"ls_p99_{reference}_ms.{load}"] = row["p99_ms"]
            for policy in self._chosen.policies:
                mine = [r for r in here if r["policy"] == policy]
                summary[f"ls_p99_ms.{policy}.{load}"] = max(r["p99_ms"] for r in mine)
                for figure in ("be_items_per_s", "be_share_of_leftover"):
                    summary[f"{figure}.{policy}.{load}"] = min(r[figure] for r in mine)
            limit = 1.25 * summary[f"ls_p99_ideal_ms.{load}"] + 2.0
            summary[f"ls_p99_limit_ms.{load}"] = limit
        return summary

    def _longest_segment_ms(self) -> float:
        stats = self._runtimes[self._chosen.policies[-1]].stats()["models"]
        return max(
            plan["longest_segment_ms"] for name in self._works for plan in stats[name]["plans"]
        )
