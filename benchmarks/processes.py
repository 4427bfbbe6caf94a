"""Does a latency-sensitive process keep its tail beside unmodified best-effort ones on one device?

One server process answers Poisson arrivals. Beside it run one, two or four processes of plain JAX
and Flax, which infer and train as fast as they are let, in short launches or in long ones. All of
them use the same PJRT plugin through the wrapper, so that systems differ in who may launch, and in
nothing else. *uncontrolled*: nobody asks. *nice19*, *sched_idle*: the best-effort processes leave
it to the operating system. *missile*: as `missile run` does it, on a CPU with best-effort threads
of the idle class, which need no turns; *missile_turns*: by turns.

All processes live from start to end, one system's at a time are busy.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import arrivals
from benchmarks.load import jobs_inside
from benchmarks.report import Report, p99_interval_ms, percentiles
from missile_jax.errors import ConfigError
from missile_jax.plugin.library import VARIABLE

LENGTHS = ("short", "long")
COUNTS = (1, 2, 4)
LOAD = 0.3
KINDS = ("infer", "train", "infer", "train")
# Of LS traffic before and behind the requests that count.
_BEFORE_S, _AFTER_S = 1.0, 0.7
_DEVICE = "processes-benchmark"


@dataclass(frozen=True, slots=True)
class System:
    """How best-effort processes are started. before: the command that starts them. options: of
    `missile run`, for LS too if it has an arbiter."""

    name: str
    before: tuple[str, ...] = ()
    options: tuple[str, ...] = ("--no-arbiter",)


SYSTEMS = {
    system.name: system
    for system in (
        System("uncontrolled"),
        System("nice19", ("nice", "-n", "19")),
        System("sched_idle", ("chrt", "--idle", "0")),
        System("missile_turns", options=("--device", _DEVICE, "--no-idle")),
        System("missile", options=("--device", _DEVICE)),
    )
}


@dataclass(frozen=True, slots=True)
class Settings:
    """counts: of best-effort processes that run at a time. requests: behind each figure, over all
    repeats. alone_s: of each best-effort reference.
    """

    systems: Sequence[str]
    counts: Sequence[int]
    requests: int
    repeats: int
    alone_s: float
    seed: int
    wrap: Path | None


def settings(quick: bool, seed: int, systems: Sequence[str], wrap: Path | None) -> Settings:
    """Raises ConfigError for a system that there is none of."""
    if unknown := [name for name in systems if name not in SYSTEMS]:
        raise ConfigError(f"systems {unknown} are unknown; known: {list(SYSTEMS)}")
    if quick:
        return Settings(systems, (2,), 100, 1, 3.0, seed, wrap)
    return Settings(systems, COUNTS, 999, 3, 3.0, seed, wrap)


class Child:
    """A process that is told and tells in lines of JSON."""

    def __init__(self, script: str, arguments: Sequence[str], run: Sequence[str],
                 before: Sequence[str], wrap: Path | None) -> None:  # fmt: skip
        missile = str(Path(sys.executable).with_name("missile"))
        wrapped = [] if wrap is None else ["--wrap", str(wrap)]
        path = Path(__file__).with_name(script)
        command = [*before, missile, "run", *run, *wrapped, "--", sys.executable, str(path)]
        self._process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        )

    def tell(self, command: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)

    def hear(self) -> dict[str, Any]:
        """Raises RuntimeError if the process has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}")
        return json.loads(line)

    def ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        self.tell(command)
        return self.hear()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


class Group:
    """The processes of one system: a server, and best-effort ones."""

    def __init__(self, system: System, wrap: Path | None) -> None:
        run = system.options
        self.server = Child("process_ls.py", [], ["--latency", *run], (), wrap)
        self.best_effort = [
            Child("process_be.py", [kind], ["--best-effort", *run], system.before, wrap)
            for kind in KINDS
        ]

    @property
    def children(self) -> list[Child]:
        return [self.server, *self.best_effort]


def run(chosen: Settings, console: Console) -> Report:
    """Raises RuntimeError if a process ends, such as for want of a plugin to run on."""
    bench = _Bench(chosen, console)
    with bench:
        for repeat in range(chosen.repeats):
            bench.round(repeat)
    return bench.report()


class _Bench:
    def __init__(self, chosen: Settings, console: Console) -> None:
        self._chosen = chosen
        self._console = console
        self._stack = ExitStack()
        self._groups: dict[str, Group] = {}
        self._service_s: list[float] = []
        # By length and process; by system, length and count.
        self._alone_rates: dict[tuple[str, int], list[float]] = defaultdict(list)
        self._alone_steps_s: dict[tuple[str, int], list[float]] = defaultdict(list)
        self._latencies: dict[tuple[str, str, int], list[np.ndarray]] = defaultdict(list)
        self._shares: dict[tuple[str, str, int], list[float]] = defaultdict(list)
        self._rates: dict[tuple[str, str, int], list[float]] = defaultdict(list)
        self._longest_s: dict[tuple[str, str, int], float] = defaultdict(float)

    def __enter__(self) -> _Bench:
        for name in self._chosen.systems:
            self._console.print(f"[dim]{name}: starting processes[/]")
            group = self._groups[name] = Group(SYSTEMS[name], self._chosen.wrap)
            for child in group.children:
                self._stack.callback(child.close)
            for child in group.children:
                child.hear()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def round(self, repeat: int) -> None:
        """One repeat: references, then every length and count, the systems in rotating order."""
        chosen = self._chosen
        first = self._groups[chosen.systems[0]]
        for length in LENGTHS:
            for k, child in enumerate(first.best_effort):
                self._alone(length, k, child)
        turn = itertools.count(repeat)
        count = chosen.requests // chosen.repeats
        for length, processes in itertools.product(LENGTHS, chosen.counts):
            first.server.ask({"back_to_back": 20})
            service_s = first.server.ask({"back_to_back": 60})["service_s"]
            self._service_s.append(service_s)
            seed = chosen.seed + 1000 * repeat + 10 * processes + (length == "long")
            rate_per_s = LOAD / service_s
            before, after = round(rate_per_s * _BEFORE_S), round(rate_per_s * _AFTER_S)
            times = arrivals.poisson(rate_per_s, before + count + after, seed)
            counted = slice(before, before + count)
            order = ["alone", *chosen.systems]
            shift = next(turn) % len(order)
            for name in order[shift:] + order[:shift]:
                key = (name, length, processes)
                self._measure(key, times, counted, service_s)

    def _alone(self, length: str, k: int, child: Child) -> None:
        with subprocess.Popen(["sleep", str(self._chosen.alone_s)]) as clock:
            child.tell({"run": length})
            clock.wait()
        ran = child.ask({"stop": True})["ran"]
        start, end = ran[0][0], ran[-1][1]
        self._alone_rates[length, k].append(jobs_inside(ran, start, end) / (end - start))
        self._alone_steps_s[length, k] += [e - s for s, e in ran]

    def _measure(
        self, key: tuple[str, str, int], times: np.ndarray, counted: slice, service_s: float
    ) -> None:
        name, length, processes = key
        group = self._groups[self._chosen.systems[0] if name == "alone" else name]
        busy = [] if name == "alone" else group.best_effort[:processes]
        for child in busy:
            child.tell({"run": length})
        seen = group.server.ask({"arrivals_s": list(times)})
        ran = [child.ask({"stop": True})["ran"] for child in busy]
        latencies = np.array(seen["latencies_s"])[counted]
        self._latencies[key].append(latencies)
        start = seen["start_s"] - times[0] + times[counted][0]
        end = seen["start_s"] - times[0] + times[counted][-1] + float(latencies[-1])
        used = len(latencies) * service_s / (end - start)
        progress = 0.0
        for k, steps in enumerate(ran):
            rate = jobs_inside(steps, start, end) / (end - start)
            progress += rate / float(np.mean(self._alone_rates[length, k]))
            inside = [e - s for s, e in steps if s < end and e > start]
            self._longest_s[key] = max(self._longest_s[key], *inside, 0.0)
        if busy:
            self._rates[key].append(progress)
            self._shares[key].append(progress / max(1.0 - used, 0.01))
        p99 = np.percentile(latencies, 99) * 1e3
        self._console.print(
            f"[dim]{length} {processes} {name}: p99 {p99:.1f} ms, BE {progress:.2f}[/]"
        )

    def report(self) -> Report:
        report = Report("processes", self._chosen.seed)
        for key, parts in self._latencies.items():
            name, length, processes = key
            latencies = np.concatenate(parts)
            low, high = p99_interval_ms(latencies, self._chosen.seed)
            row: dict[str, Any] = {"system": name, "launches": length, "processes": processes}
            row |= percentiles(latencies) | {"p99_low_ms": low, "p99_high_ms": high}
            row["requests"] = len(latencies)
            if key in self._shares:
                row["be_rate_vs_alone"] = float(np.mean(self._rates[key]))
                row["be_share_of_leftover"] = float(np.mean(self._shares[key]))
                row["longest_step_ms"] = self._longest_s[key] * 1e3
            report.rows.append(row)
        report.summary = summarise(
            report.rows, self._service_s, self._alone_steps_s, self._chosen.systems
        )
        return report


def summarise(
    rows: Sequence[Mapping[str, Any]],
    service_s: Sequence[float],
    alone_steps_s: Mapping[tuple[str, int], Sequence[float]],
    systems: Sequence[str],
) -> dict[str, Any]:
    """Of each system, the worst over all numbers of processes; and that by launches' length.

    The reference is the same arrivals without any other process. service_s: of an LS request, back
    to back. alone_steps_s: by length and process, how long its steps took with nobody else there; a
    length has those of its slowest process.
    """
    alone = {(r["launches"], r["processes"]): r for r in rows if r["system"] == "alone"}
    service_ms = float(np.median(service_s)) * 1e3
    summary: dict[str, Any] = {
        "ls_service_ms": service_ms,
        "ls_p99_alone_ms": float(np.median([row["p99_ms"] for row in alone.values()])),
    }
    for length in LENGTHS:
        steps_s = [steps for (of, _), steps in alone_steps_s.items() if of == length]
        step_ms, p99_ms = (
            max(float(np.percentile(steps, percent)) * 1e3 for steps in steps_s)
            for percent in (50, 99)
        )
        summary[f"be_step_alone_ms.{length}"] = step_ms
        summary[f"be_step_alone_p99_ms.{length}"] = p99_ms
        summary[f"be_step_vs_ls.{length}"] = step_ms / service_ms
    for system in systems:
        mine = [row for row in rows if row["system"] == system]
        for length in (None, *LENGTHS):
            some = [row for row in mine if length in (None, row["launches"])]
            suffix = system if length is None else f"{system}.{length}"
            ratios = [
                row["p99_ms"] / alone[row["launches"], row["processes"]]["p99_ms"] for row in some
            ]
            summary[f"ls_p99_vs_alone.{suffix}"] = max(ratios)
            summary[f"be_share_of_leftover.{suffix}"] = min(
                row["be_share_of_leftover"] for row in some
            )
    return summary


def plugin(named: Path | None) -> Path | None:
    """The PJRT plugin to run on: `named`, what the environment names, or None for JAX's CUDA one.

    A CPU plugin that `make` has put beside the environment is taken before that.
    """
    if named is not None or VARIABLE in os.environ:
        return named or Path(os.environ[VARIABLE])
    beside = Path(sys.prefix) / "pjrt" / "lammps_jax_pjrt_cpu" / "pjrt_c_api_cpu_plugin.so"
    return beside if beside.exists() else None
