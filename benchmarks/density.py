"""How many functions does one device serve that has room for a tenth of them?

N functions are called as in production: few often, most seldom, in bursts. A function meets its
objective (SLO) if its p98 is within three times its resident p50: at most 2 % of its calls are
later. One with fewer than 50 calls may have one late call, if it has several. A refused call is
never allowed.

All systems get the same calls, in turns. *missile* is the runtime; *light_first* and
*lru* are the same with these orders of eviction; *cold* loads a model from its checkpoint when it
is called; *native* holds the functions that are called most, as many as fit, and refuses the
others. Two are no systems: they simulate the calls at one server that has every model in place and
takes the resident p50 of each, measured in the same run. *ideal* serves in order of arrival,
*urgent* in the runtime's own order.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from rich.console import Console
from safetensors.numpy import save_file

from benchmarks.calls import Calls, from_trace, production
from benchmarks.functions import CONVOLUTIONAL, ENCODER, PERCEPTRON, Architecture, fine_tune
from benchmarks.report import Report
from benchmarks.single_server import by_urgency, in_order
from benchmarks.whole_models import Stored, WholeModels, compiled
from missile_jax import SLO, LaunchRecord, Model, ModelNotFoundError, Runtime
from missile_jax.memory.memory import ARENA_SHARE

CASES = {"one": (ENCODER,), "mixed": (ENCODER, PERCEPTRON, CONVOLUTIONAL)}
ORDERS = {"missile": "greedy_dual", "light_first": "light_first", "lru": "lru"}
SYSTEMS = (*ORDERS, "cold", "native")
SIMULATED = ("ideal", "urgent")
# Of all parameters, what the device has room for.
ROOM = 0.1
SLO_FACTOR = 3.0
SLO_PERCENTILE = 98
_FEW_CALLS = 50
# Of the calls, the first: they fill the device, and do not count.
_WARM_UP = 0.1
_RATIO_PERCENTILES = (50, 75, 90, 95, 98, 99, 99.5)


@dataclass(frozen=True, slots=True)
class Settings:
    """calls: of a function, on average. loads: shares of the device's time, the first of which is
    quoted."""

    functions: int
    calls: int
    parts: int
    loads: Sequence[float]
    seed: int
    trace: Path | None


def settings(quick: bool, seed: int, trace: Path | None) -> Settings:
    if quick:
        return Settings(100, 10, 2, (0.5,), seed, trace)
    return Settings(500, 8, 4, (0.5, 0.3), seed, trace)


def run(chosen: Settings, console: Console) -> Report:
    report = Report("density", chosen.seed)
    late_s: list[float] = []
    reused: dict[str, float] = {}
    for case, architectures in CASES.items():
        with _Bench(chosen, architectures, console) as bench:
            for load in chosen.loads:
                console.print(f"[dim]{case}: {load:.0%} busy[/]")
                for row in bench.at_load(load):
                    report.rows.append({"case": case, "load_percent": round(100 * load)} | row)
            late_s += bench.late_s
            reused[f"arrays_reused_share.{case}"] = bench.arrays_reused_share
    report.summary = {"functions": chosen.functions}
    report.summary |= _summary(report.rows, round(100 * chosen.loads[0]))
    report.summary |= reused
    report.summary["sent_late_p99_ms"] = float(np.percentile(late_s, 99)) * 1e3
    return report


class _System(Protocol):
    """What serves calls. `submit` raises ModelNotFoundError for what it refuses.

    busy_s: what calls took of the device. loads: how often one had to bring its model.
    """

    @property
    def busy_s(self) -> float: ...
    @property
    def loads(self) -> int: ...
    def submit(self, name: str, inputs: Any) -> Future: ...


class _Served:
    """A runtime as a system."""

    def __init__(self, **options: Any) -> None:
        self._busy_ns = 0
        self.runtime = Runtime(observer=self._note, **options)
        self.submit = self.runtime.submit

    def _note(self, record: LaunchRecord) -> None:
        self._busy_ns += record.ended_ns - record.started_ns

    @property
    def busy_s(self) -> float:
        return self._busy_ns / 1e9

    @property
    def loads(self) -> int:
        models = self.runtime.stats()["models"].values()
        return sum(model["residency"].get("swap_ins", 0) for model in models)


@dataclass(slots=True)
class _Seen:
    """What a system did with the calls that count. Latencies in seconds, inf where refused."""

    latencies_s: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0
    busy_s: float = 0.0
    loads: int = 0


class _Bench:
    """All systems, loaded, with calls that are the same for all.

    late_s: how late calls were sent.
    """

    def __init__(
        self, chosen: Settings, architectures: Sequence[Architecture], console: Console
    ) -> None:
        self._chosen = chosen
        self._console = console
        n = chosen.functions
        self._names = [f"f{k}" for k in range(n)]
        self._architectures = [architectures[k % len(architectures)] for k in range(n)]
        self._bases = {a.name: a.base() for a in architectures}
        self._sizes = {name: _bytes(base) for name, base in self._bases.items()}
        count = n * chosen.calls
        if chosen.trace is None:
            self._calls = production(n, count, chosen.seed)
        else:
            self._calls = from_trace(chosen.trace, n, count, chosen.seed)
        self._systems: dict[str, _System] = {}
        self._resident_ns: dict[str, list[int]] = {a.name: [] for a in architectures}
        self.late_s: list[float] = []
        self._stack = ExitStack()

    def __enter__(self) -> _Bench:
        limit = round(ROOM * sum(self._sizes[a.name] for a in self._architectures))
        self._native = _Served()
        self._stack.enter_context(self._native.runtime)
        self._held = self._most_called(limit)
        for k in self._held:
            self._native.runtime.load(self._model(k, None))
        self._measure_resident(8)
        memory = round(limit / ARENA_SHARE)
        swapping = [_Served(device_memory=memory, eviction=order) for order in ORDERS.values()]
        for system in swapping:
            self._stack.enter_context(system.runtime)
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._load([system.runtime for system in swapping], folder)
        cold = WholeModels(self._stored(folder), limit)
        self._stack.callback(cold.close)
        served = (*swapping, cold, self._native)
        self._systems = dict(zip(SYSTEMS, served, strict=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def arrays_reused_share(self) -> float:
        """Of the arrays that models of "missile" got when they came, those that others left."""
        system = self._systems["missile"]
        assert isinstance(system, _Served)
        models = [model["residency"] for model in system.runtime.stats()["models"].values()]
        reused = sum(model["arrays_reused"] for model in models)
        return reused / (reused + sum(model["arrays_created"] for model in models))

    def _most_called(self, limit_bytes: int) -> list[int]:
        """The functions called most, of each architecture in turn, as many as fit."""
        counts = np.bincount(self._calls.function, minlength=len(self._names))
        ranks: dict[str, int] = {}
        turns = []
        for k in np.argsort(-counts, kind="stable"):
            name = self._architectures[k].name
            ranks[name] = ranks.get(name, 0) + 1
            turns.append((ranks[name], int(k)))
        held, left = [], limit_bytes
        for _, k in sorted(turns):
            left -= self._sizes[self._architectures[k].name]
            if left < 0:
                break
            held.append(k)
        return held

    def _model(self, k: int, slo: SLO | None) -> Model:
        architecture = self._architectures[k]
        return Model(
            self._names[k],
            architecture.module,
            fine_tune(self._bases[architecture.name], k),
            example=architecture.example,
            priority="latency",
            slo=slo,
        )

    def _load(self, runtimes: Sequence[Runtime], folder: Path) -> None:
        objectives = _objectives(self._resident_s())
        start_s = time.perf_counter()
        for k, name in enumerate(self._names):
            model = self._model(k, objectives[k])
            for runtime in runtimes:
                runtime.load(model)
            save_file(_flat(model.params), folder / f"{name}.safetensors")
        seconds = time.perf_counter() - start_s
        self._console.print(f"[dim]{len(self._names)} functions loaded in {seconds:.0f} s[/]")

    def _stored(self, folder: Path) -> dict[str, Stored]:
        kinds = {a.name: k for k, a in enumerate(self._architectures)}
        wholes = {name: compiled(self._model(k, None)) for name, k in kinds.items()}
        return {
            name: Stored(wholes[a.name], folder / f"{name}.safetensors", self._sizes[a.name])
            for name, a in zip(self._names, self._architectures, strict=True)
        }

    def _measure_resident(self, rounds: int) -> None:
        """Goes round the functions that are held, so that weights come from memory each time."""
        for _ in range(rounds):
            for k in self._held:
                architecture = self._architectures[k]
                start_ns = time.perf_counter_ns()
                self._native.runtime.infer(self._names[k], architecture.example)
                self._resident_ns[architecture.name].append(time.perf_counter_ns() - start_ns)

    def _resident_s(self) -> np.ndarray:
        """Resident p50 of each function [functions]."""
        medians = {name: np.median(times) / 1e9 for name, times in self._resident_ns.items()}
        return np.array([medians[a.name] for a in self._architectures])

    def at_load(self, load: float) -> list[dict[str, Any]]:
        """A row for each system at this load, and one for each simulated server."""
        calls = self._calls.at_load(load, self._resident_s())
        warm = round(_WARM_UP * len(calls))
        edges = np.linspace(warm, len(calls), self._chosen.parts + 1).astype(int)[:-1].tolist()
        first, *parts = calls.parts(edges)
        for system in self._systems.values():
            self._play(system, first)
        seen = {name: _Seen() for name in (*SYSTEMS, *SIMULATED)}
        for turn, part in enumerate(parts):
            self._measure_resident(2)
            shift = turn % len(SYSTEMS)
            for name in SYSTEMS[shift:] + SYSTEMS[:shift]:
                self._observe(self._systems[name], part, seen[name])
            for name, latencies_s in self._simulated(part).items():
                seen[name].latencies_s.append(latencies_s)
        function = np.concatenate([part.function for part in parts])
        resident_s = self._resident_s()[function]
        return [_row(name, s, function, resident_s) for name, s in seen.items()]

    def _simulated(self, calls: Calls) -> dict[str, np.ndarray]:
        functions_s = self._resident_s()
        service_s = functions_s[calls.function]
        ordered = in_order(calls.at_s, service_s)
        urgent = by_urgency(calls.at_s, service_s, calls.function, _objectives(functions_s))
        return dict(zip(SIMULATED, (ordered, urgent), strict=True))

    def _observe(self, system: _System, part: Calls, seen: _Seen) -> None:
        busy_s, loads = system.busy_s, system.loads
        start_s = time.perf_counter()
        seen.latencies_s.append(self._play(system, part))
        seen.seconds += time.perf_counter() - start_s
        seen.busy_s += system.busy_s - busy_s
        seen.loads += system.loads - loads

    def _play(self, system: _System, calls: Calls) -> np.ndarray:
        """Sends each call when it is due, waits for all. Returns latencies [n] in seconds."""
        ended = np.full(len(calls), np.inf)
        futures = []

        def note(k: int) -> Any:
            def done(_: Future) -> None:
                ended[k] = time.perf_counter()

            return done

        start_s = time.perf_counter()
        for k, (at_s, function) in enumerate(zip(calls.at_s, calls.function, strict=True)):
            while (wait := start_s + at_s - time.perf_counter()) > 0:
                time.sleep(wait)
            self.late_s.append(time.perf_counter() - start_s - at_s)
            example = self._architectures[function].example
            try:
                future = system.submit(self._names[function], example)
            except ModelNotFoundError:
                continue
            future.add_done_callback(note(k))
            futures.append(future)
        for future in futures:
            future.result()
        return ended - start_s - calls.at_s


def _objectives(resident_s: np.ndarray) -> list[SLO]:
    """Of each function. resident_s: their resident p50 [functions]."""
    return [SLO(SLO_FACTOR * own_s * 1e3, SLO_PERCENTILE / 100) for own_s in resident_s.tolist()]


def compliant(function: np.ndarray, ratios: np.ndarray) -> float:
    """Share of the functions called that meet their SLO.

    function: which one each call was for [n]. ratios: latency over resident p50 [n], inf where
    the call was refused.
    """
    calls = np.bincount(function)
    late = np.bincount(function, ratios > SLO_FACTOR)
    refused = np.bincount(function, np.isinf(ratios))
    allowed = np.where(calls < _FEW_CALLS, calls > 1, (1 - SLO_PERCENTILE / 100) * calls)
    return float(((late <= allowed) & (refused == 0))[calls > 0].mean())


def _row(system: str, seen: _Seen, function: np.ndarray, resident_s: np.ndarray) -> dict[str, Any]:
    latencies_s = np.concatenate(seen.latencies_s)
    ratios = latencies_s / resident_s
    answered = np.isfinite(ratios)
    calls = np.bincount(function)
    few = calls[function] < _FEW_CALLS
    p50, p98 = np.percentile(latencies_s[answered], (50, SLO_PERCENTILE)) * 1e3
    row = {
        "system": system,
        "calls": len(ratios),
        "functions_called": int((calls > 0).sum()),
        "compliant": compliant(function, ratios),
        "p50_ms": float(p50),
        "p98_ms": float(p98),
        "p98_ratio": float(np.percentile(ratios[answered], SLO_PERCENTILE)),
        "late_share": float((ratios > SLO_FACTOR).mean()),
        "late_share_few_calls": float((ratios[few] > SLO_FACTOR).mean()) if few.any() else None,
        "refused_share": float((~answered).mean()),
        "ratio_percentiles": {
            str(p): float(np.percentile(ratios[answered], p)) for p in _RATIO_PERCENTILES
        },
    }
    if seen.seconds:
        row["swap_share"] = seen.loads / len(ratios)
        row["device_busy"] = seen.busy_s / seen.seconds
    return row


def _summary(rows: Sequence[dict[str, Any]], load_percent: int) -> dict[str, Any]:
    """The worst over the cases at the load that is quoted; then every case and load."""
    here = [row for row in rows if row["load_percent"] == load_percent]
    ours = [row for row in here if row["system"] == "missile"]
    names = list(dict.fromkeys(row["system"] for row in rows))
    summary: dict[str, Any] = {
        "functions_called": min(row["functions_called"] for row in ours),
        "swap_share": min(row["swap_share"] for row in ours),
        "device_busy": float(np.mean([row["device_busy"] for row in ours])),
    }
    for figure, worst in (("compliant", min), ("p98_ratio", max)):
        for name in names:
            values = [row[figure] for row in here if row["system"] == name]
            summary[f"{figure}.{name}"] = worst(values)
    for row in rows:
        at = f"{row['system']}.{row['case']}.{row['load_percent']}"
        summary[f"compliant.{at}"] = row["compliant"]
    return summary


def _flat(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(part.key for part in path): leaf for path, leaf in leaves}


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
