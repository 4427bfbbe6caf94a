"""What is a channel plan worth: LS requests beside a BE model, with and without colours?

All of it is simulated. Streams are the zoo's models as compiled here, in about ten segments, each
with the bytes and operations of the compiler's cost analysis; GPUs are their data sheets; how two
streams slow each other down comes from accesses to a simulated memory. Nothing was fitted, and the
figures of the paper stand beside for comparison: they are of other models, on real cards.

Coloured are parameters that a memory-bound product reads. *All coloured* is what it would be if
activations were, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import jax
import numpy as np
from rich.console import Console

import missile_jax.models as zoo
from benchmarks.report import Report
from missile_jax.coloring.comparison import Load, Worth, compare, with_share
from missile_jax.coloring.gpus import GPUS, Gpu
from missile_jax.coloring.interference import Setting, SimulatedInterference
from missile_jax.coloring.plan import ChannelPlan
from missile_jax.coloring.streams import Efficiency, coloured_share, stream_of
from missile_jax.coloring.worth import Stream
from missile_jax.program.compile import persistent_cache
from missile_jax.program.traffic import Traffic, model_traffic
from missile_jax.runtime import cache_directory
from missile_jax.spec import Model

SEGMENTS = 10
# LS p99 with channels isolated over without, on average (arXiv:2407.13996).
PAPER = {"P40": -0.287, "A2000": -0.475}
LATENCY = ("squeezenet", "mobilenet", "efficientnet", "minilm")
BEST_EFFORT = (("resnet50", 4), ("resnet152", 4), ("minilm", 8))


@dataclass(frozen=True, slots=True)
class Variant:
    """One thing changed.

    coloured: a share instead of what the models have. any_product: parameters of products that are
    bound by compute are coloured, too.
    """

    what: str
    load: Load
    reached: Efficiency = field(default_factory=Efficiency)
    setting: Setting = field(default_factory=Setting)
    best_effort_share: float = 1 / 3
    latency_alone: bool = True
    coloured: float | None = None
    any_product: bool = False

    def plan(self, gpu: Gpu) -> ChannelPlan:
        return ChannelPlan.by_class(
            gpu.channels,
            best_effort_share=self.best_effort_share,
            latency_alone=self.latency_alone,
        )


Models = dict[str, tuple[Traffic, ...]]


def run(quick: bool, seed: int, console: Console) -> Report:
    report = Report("channels", seed, simulated=True)
    persistent_cache(cache_directory())
    ls = _traffic([(name, 1) for name in (LATENCY[::3] if quick else LATENCY)], console)
    be = _traffic(BEST_EFFORT[::2] if quick else BEST_EFFORT, console)
    load = Load(requests=300 if quick else 1_000, seed=seed)
    base = Variant("as fixed", load)
    for name, gpu in GPUS.items():
        console.print(f"[dim]{name}[/]")
        interference = SimulatedInterference(gpu, base.plan(gpu), base.setting)
        worths = list(_worths(gpu, ls, be, base, interference))
        report.rows += [{"case": name, "simulated": True} | asdict(worth) for worth in worths]
        full = list(_worths(gpu, ls, be, replace(base, coloured=1.0), interference))
        report.summary |= _means(name, worths) | {
            f"ls_p99_change_all_coloured.{name}": _mean(full, "static", "p99_change"),
            f"be_rate_change_all_coloured.{name}": _mean(full, "static", "be_rate_change"),
        }
    report.summary |= {f"paper_ls_p99_change.{name}": value for name, value in PAPER.items()}
    for name, traffic in (ls | be).items():
        shares = [coloured_share(traffic, gpu) for gpu in GPUS.values()]
        report.summary[f"coloured_byte_share.{name}"] = float(np.mean(shares))
        report.rows += [
            {"model": name, "gpu": gpu, "simulated": True, "coloured_byte_share": share,
             "mb": sum(one.bytes for one in traffic) / 1e6,
             "gflop": sum(one.flops for one in traffic) / 1e9}
            for gpu, share in zip(GPUS, shares, strict=True)
        ]  # fmt: skip
    console.print("[dim]sensitivity[/]")
    _sensitivity(report, ls, be, base)
    return report


def _traffic(models: Sequence[tuple[str, int]], console: Console) -> Models:
    made: Models = {}
    for net_name, batch in models:
        console.print(f"[dim]{net_name}, batch {batch}[/]")
        net = zoo.load(net_name, random_weights=True)
        example = jax.tree.map(lambda x, n=batch: np.concatenate([x] * n), net.example)
        name = net_name if batch == 1 else f"{net_name}-b{batch}"
        model = Model(name, net.module, net.variables, example=example)
        made[name] = model_traffic(model, jax.devices()[0], SEGMENTS)
    return made


def _worths(
    gpu: Gpu, ls: Models, be: Models, variant: Variant, interference: SimulatedInterference
) -> Iterator[Worth]:
    """Of each pair of models, in each layout."""

    def stream(name: str, traffic: tuple[Traffic, ...]) -> Stream:
        made = stream_of(name, traffic, gpu, variant.reached, any_product=variant.any_product)
        return made if variant.coloured is None else with_share(made, variant.coloured)

    for ls_name, ls_traffic in ls.items():
        for be_name, be_traffic in be.items():
            pair = stream(ls_name, ls_traffic), stream(be_name, be_traffic)
            yield from compare(*pair, interference, variant.load)


def _mean(worths: Sequence[Worth], layout: str, figure: str) -> float:
    return float(np.mean([getattr(w, figure) for w in worths if w.layout == layout]))


def _means(name: str, worths: Sequence[Worth]) -> dict[str, Any]:
    return {
        f"ls_p99_change.{name}": _mean(worths, "static", "p99_change"),
        f"be_rate_change.{name}": _mean(worths, "static", "be_rate_change"),
        f"ls_p99_change_bimodal.{name}": _mean(worths, "bimodal", "p99_change"),
        f"be_rate_change_bimodal.{name}": _mean(worths, "bimodal", "be_rate_change"),
        f"overlap.{name}": _mean(worths, "none", "overlap"),
    }


def _sensitivity(report: Report, ls: Models, be: Models, base: Variant) -> None:
    """What becomes of the GPUs that the paper has figures of, if one thing is otherwise."""
    load, setting, reached = base.load, base.setting, base.reached
    variants = [
        base,
        replace(base, what="parameters of any product", any_product=True),
        *(replace(base, what=f"coloured share {c}", coloured=c)
          for c in (0.25, 0.5, 0.75, 0.9, 1.0)),
        *(replace(base, what=f"LS busy {b}", load=replace(load, busy=b)) for b in (0.1, 0.6)),
        *(replace(base, what=f"BE on {s:.2f} of the channels", best_effort_share=s)
          for s in (1 / 6, 1 / 2)),
        replace(base, what="LS on all channels", latency_alone=False),
        *(replace(base, what=f"BE has {f} x in flight",
                  setting=replace(setting, best_effort_in_flight=f)) for f in (0.5, 2.0)),
        *(replace(base, what=f"compute reaches {r}", reached=replace(reached, compute=r))
          for r in (0.25, 1.0)),
        replace(base, what="memory reaches 0.7", reached=replace(reached, memory=0.7)),
    ]  # fmt: skip
    for name in PAPER:
        gpu = GPUS[name]
        known: dict[tuple[Any, ...], SimulatedInterference] = {}
        for variant in variants:
            plan = variant.plan(gpu)
            key = plan.latency, plan.best_effort, variant.setting
            if key not in known:
                known[key] = SimulatedInterference(gpu, plan, variant.setting)
            interference = known[key]
            worths = list(_worths(gpu, ls, be, variant, interference))
            row: dict[str, Any] = {"what": variant.what, "gpu": name, "simulated": True}
            for layout in ("static", "bimodal"):
                for figure in ("p99_change", "be_rate_change"):
                    row[f"{figure}.{layout}"] = _mean(worths, layout, figure)
            report.rows.append(row)
