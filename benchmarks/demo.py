"""The main job at a glance: a photo classifier answers while other models work through piles.

The classifier (SqueezeNet, latency-sensitive) gets Poisson arrivals of real photos. EfficientNet,
ResNet-50 and MiniLM (best-effort) work through photos and sentences. The same arrivals are served
alone and under each policy, in turns. On a CPU `missile` runs best-effort jobs whole, on threads
that yield. So the timeline has a few seconds more, outside of what is compared, of how it runs on
a GPU: in segments.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

import missile_jax.models as zoo
from benchmarks import arrivals
from benchmarks.load import BestEffort, back_to_back_s, latency_stream, throughput
from benchmarks.plots import plot_latencies
from benchmarks.report import Report, percentiles
from benchmarks.workloads import WORKS, best_effort_model, latency_model
from missile_jax import LaunchRecord, Missile, Runtime
from missile_jax.observe.timeline import perfetto_trace

POLICIES = ("concurrent", "fifo", "missile")
WORK_NAMES = ("efficientnet-b1", "resnet50-b4", "minilm-b8")
LOAD = 0.3
REQUESTS = 120
# Sent before and behind them, so that all that count see the same load.
COUNTED = slice(20, 20 + REQUESTS)
SENT = COUNTED.stop + 30
ROUNDS = 2
# A turn is no longer, however slow the machine is.
TURN_S = 6.0
# The share of each run that goes into the timeline: more makes a file that is slow to open.
TIMELINE_S = 3.0
# A run of its own in the timeline.
SEGMENTED = "missile, in segments"


@dataclass(slots=True)
class Scene:
    """What has been measured so far, for the live view."""

    title: str = "loading"
    latencies: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    rates: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))
    answers: list[str] = field(default_factory=list)

    def __rich__(self) -> Group:
        lines = [Text(answer) for answer in self.answers[-4:]]
        return Group(Text(self.title, style="bold"), self.table(), *lines)

    def table(self) -> Table:
        table = Table(title="photo classifier (LS) beside three best-effort models (BE)")
        for column in ("", "LS p50 ms", "LS p95 ms", "LS p99 ms", "BE items/s", "BE by model"):
            table.add_column(column, justify="right" if column else "left")
        for name in ("LS alone", "BE alone", *POLICIES):
            if name in self.latencies or name in self.rates:
                table.add_row(*self._row(name))
        return table

    def _row(self, name: str) -> list[str]:
        row = [name]
        if parts := self.latencies.get(name):
            row += [f"{v:.1f}" for v in percentiles(np.concatenate(parts)).values()]
        else:
            row += ["-"] * 3
        rates = self.mean_rates(name)
        row.append(f"{sum(rates.values()):.1f}" if rates else "-")
        row.append(", ".join(f"{n.split('-')[0]} {r:.1f}" for n, r in rates.items()) or "-")
        return row

    def mean_rates(self, name: str) -> dict[str, float]:
        parts = self.rates.get(name, [])
        return {n: float(np.mean([p[n] for p in parts])) for n in (parts[0] if parts else ())}


def run(out: Path, seed: int, console: Console) -> Report:
    """Runs it all, writes `report.json`, `latency.png` and `timeline.pftrace` into `out`."""
    began_s = time.perf_counter()
    scene = Scene()
    records: dict[str, list[LaunchRecord]] = {}
    with _live(scene, console), ExitStack() as stack:
        runtimes: dict[str, Runtime] = {}
        for name in (*POLICIES, SEGMENTED):
            records[name] = []
            policy = Missile(yielding=False, calm_ms=math.inf) if name == SEGMENTED else name
            runtime = Runtime(policy=policy, observer=records[name].append)
            runtimes[name] = stack.enter_context(runtime)
        scene.title = "fetching weights, loading models (the first time compiles them)"
        ls, photos, net = latency_model()
        works = [best_effort_model(WORKS[name]) for name in WORK_NAMES]
        inputs = {model.name: items for model, items, _ in works}
        batch = {name: WORKS[name].batch for name in WORK_NAMES}
        for policy, runtime in runtimes.items():
            for model in (ls, *(model for model, _, _ in works)):
                scene.title = f"{policy}: loading {model.name}"
                runtime.load(model)
        missile = runtimes["missile"]
        scene.answers = _in_words(missile, ls.name, photos, net, works)
        service_s = back_to_back_s(missile, ls.name, photos, 60)
        rate_per_s = LOAD / service_s
        sent, counted = requests(rate_per_s)
        for k in range(ROUNDS):
            times = arrivals.poisson(rate_per_s, sent, seed + k)
            turn = f"round {k + 1} of {ROUNDS}, {LOAD:.0%} LS load"
            scene.title = f"{turn}: LS alone"
            alone, _, _ = latency_stream(missile, ls.name, photos, times, counted)
            scene.latencies["LS alone"].append(alone.latencies_s)
            scene.title = f"{turn}: BE alone"
            scene.rates["BE alone"].append(throughput(missile, inputs, batch, 4.0))
            for policy in POLICIES[k % 3 :] + POLICIES[: k % 3]:
                scene.title = f"{turn}: {policy}"
                records[policy].clear()
                with BestEffort(runtimes[policy], inputs) as load:
                    seen, start, end = latency_stream(
                        runtimes[policy], ls.name, photos, times, counted
                    )
                scene.latencies[policy].append(seen.latencies_s)
                scene.rates[policy].append(load.rates(batch, start, end))
        scene.title = f"{SEGMENTED}: for the timeline alone"
        records[SEGMENTED].clear()
        times = arrivals.poisson(rate_per_s, math.ceil(TIMELINE_S * rate_per_s), seed)
        with BestEffort(runtimes[SEGMENTED], inputs):
            latency_stream(runtimes[SEGMENTED], ls.name, photos, times)
        scene.title = "done"
    elapsed_s = time.perf_counter() - began_s
    return write(out, scene, records, service_s, elapsed_s, seed, console)


def requests(rate_per_s: float) -> tuple[int, slice]:
    """How many to send in a turn, and which of them count: fewer where they would take too long."""
    part = min(1.0, TURN_S * rate_per_s / SENT)
    return round(part * SENT), slice(round(part * COUNTED.start), round(part * COUNTED.stop))


@contextmanager
def _live(scene: Scene, console: Console) -> Iterator[None]:
    """Shows `scene` while the block runs; plain lines where there is no terminal."""
    if console.is_terminal:
        with Live(scene, console=console, refresh_per_second=2):
            yield
        return
    ended = threading.Event()

    def follow() -> None:
        shown = ""
        while not ended.wait(0.5):
            if scene.title != shown:
                shown = scene.title
                console.print(shown)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _in_words(runtime: Runtime, ls: str, photos: list[Any], net: Any, works: Any) -> list[str]:
    lines = []
    for name, inputs in zip(zoo.photos(), photos, strict=True):
        lines.append(f"{name}: {net.answer(runtime.infer(ls, inputs))}")
    for model, items, other in works:
        if model.name.startswith("resnet50"):
            continue  # Its weights are random: it has nothing to say.
        first = runtime.infer(model.name, items[0])
        what = zoo.SENTENCES[0] if other.name == "minilm" else next(iter(zoo.photos()))
        lines.append(f"{other.name} on {what!r}: {other.answer(first[:1])}")
    return lines


def write(
    out: Path,
    scene: Scene,
    records: dict[str, list[LaunchRecord]],
    service_s: float,
    elapsed_s: float,
    seed: int,
    console: Console,
) -> Report:
    """Writes the three files, prints the table where there was no live view, and the answers.

    records: launches by run, each a process of the timeline. elapsed_s: from the start of `run`.
    """
    report = Report("demo", seed)
    for name in ("LS alone", "BE alone", *POLICIES):
        row: dict[str, Any] = {"policy": name}
        if name in scene.latencies:
            row |= percentiles(np.concatenate(scene.latencies[name]))
            row["requests"] = sum(len(part) for part in scene.latencies[name])
        if rates := scene.mean_rates(name):
            row["be_items_per_s"] = sum(rates.values())
            row |= {f"be_items_per_s.{n}": rate for n, rate in rates.items()}
        report.rows.append(row)
    report.summary = {"elapsed_s": elapsed_s, "ls_service_ms": service_s * 1e3, "ls_load": LOAD}
    report.summary |= {
        f"{figure}.{row['policy'].replace(' ', '_')}": row[figure]
        for row in report.rows
        for figure in ("p99_ms", "be_items_per_s")
        if figure in row
    }
    out.mkdir(parents=True, exist_ok=True)
    report.write(out / "report.json")
    latencies = {n: np.concatenate(parts) for n, parts in scene.latencies.items()}
    plot_latencies(out / "latency.png", latencies)
    cut = {
        name: [r for r in runs if r.started_ns - runs[0].started_ns < TIMELINE_S * 1e9]
        for name, runs in records.items()
    }
    (out / "timeline.pftrace").write_bytes(perfetto_trace(cut))
    if not console.is_terminal:
        console.print(scene.table())
    console.print("In words:")
    for line in scene.answers:
        console.print(f"  {line}", highlight=False)
    console.print(
        f"Wrote {out}/report.json, {out}/latency.png and {out}/timeline.pftrace, which opens in "
        f"Perfetto, in {elapsed_s:.0f} s."
    )
    return report
