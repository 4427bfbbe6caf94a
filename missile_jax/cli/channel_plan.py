"""``missile channels plan``: what a plan of VRAM channels is worth."""

from __future__ import annotations

from typing import Annotated

import jax
import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from missile_jax.coloring.comparison import Load, compare
from missile_jax.coloring.gpus import GPUS, gpu_named
from missile_jax.coloring.interference import SimulatedInterference
from missile_jax.coloring.plan import BEST_EFFORT_SHARE, ChannelPlan
from missile_jax.coloring.streams import coloured_share, stream_of
from missile_jax.errors import ConfigError
from missile_jax.program.compile import persistent_cache
from missile_jax.program.traffic import Traffic, model_traffic
from missile_jax.runtime import cache_directory
from missile_jax.spec import Model

app = typer.Typer()
_SEGMENTS = 10


@app.command(
    epilog="""\b
Examples:
  missile channels plan
  missile channels plan --gpu A2000 --latency mobilenet --best-effort minilm:8
  missile channels plan --gpu P40 --share 0.5 --all-for-latency --busy 0.6"""
)
def plan(
    gpu: Annotated[str, typer.Option(help=f"One of {', '.join(GPUS)}.", metavar="GPU")] = "P40",
    latency: Annotated[
        str, typer.Option(help="Zoo model of LS, with its batch.", metavar="MODEL[:BATCH]")
    ] = "squeezenet",
    best_effort: Annotated[
        str, typer.Option(help="Zoo model of BE, with its batch.", metavar="MODEL[:BATCH]")
    ] = "resnet50:4",
    share: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Of the channels, for BE.")
    ] = BEST_EFFORT_SHARE,
    all_for_latency: Annotated[
        bool, typer.Option("--all-for-latency", help="LS on all channels, BE's included.")
    ] = False,
    busy: Annotated[
        float, typer.Option(min=0.01, max=0.95, help="Share of its time that LS runs, alone.")
    ] = 0.3,
    requests: Annotated[int, typer.Option(min=1, help="Of LS, at random times.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of those times.")] = 0,
) -> None:
    """Simulate LS requests beside BE on a GPU, with and without a channel plan.

    The GPU is its data sheet, its memory is simulated access by access, and the models are compiled
    here for their bytes and operations: nothing runs on a GPU, and no weights are fetched. Shown
    for each layout: everything on all channels; each class in its channels; BE in its channels only
    while LS runs.
    """
    sheet = gpu_named(gpu)
    persistent_cache(cache_directory())
    ls, be = _traffic(latency), _traffic(best_effort)
    division = ChannelPlan.by_class(
        sheet.channels, best_effort_share=share, latency_alone=not all_for_latency
    )
    interference = SimulatedInterference(sheet, division)
    pair = stream_of(latency, ls, sheet), stream_of(best_effort, be, sheet)
    title = f"{latency} beside {best_effort} on {sheet.name} (simulated)"
    table = Table("layout", title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("LS p50 ms", "LS p99 ms", "change", "BE a second", "change"):
        table.add_column(column, justify="right")
    worths = list(compare(*pair, interference, Load(requests, busy, seed)))
    for one in worths:
        table.add_row(
            one.layout, f"{one.p50_ms:.3f}", f"{one.p99_ms:.3f}", f"{100 * one.p99_change:+.1f} %",
            f"{one.be_rate_per_s:.1f}", f"{100 * one.be_rate_change:+.1f} %",
        )  # fmt: skip
    Console(highlight=False).print(table)
    typer.echo(
        f"channels: LS {len(division.latency)}, BE {len(division.best_effort)} of {sheet.channels}"
    )
    for name, traffic in ((latency, ls), (best_effort, be)):
        typer.echo(f"{name}: {coloured_share(traffic, sheet):.1%} of its bytes would be coloured")
    typer.echo(
        "without a plan, both press on the memory in "
        f"{worths[0].overlap:.0%} of the time that LS runs"
    )


def _traffic(named: str) -> tuple[Traffic, ...]:
    """Of ``MODEL`` or ``MODEL:BATCH``. Raises ConfigError."""
    import missile_jax.models as zoo

    name, _, rows = named.partition(":")
    if rows and not (rows.isdigit() and int(rows) > 0):
        raise ConfigError(f"model {named!r}: the batch is {rows!r}, and must be a positive number")
    net = zoo.load(name, random_weights=True)
    example = jax.tree.map(lambda x: np.concatenate([x] * int(rows or 1)), net.example)
    model = Model(name, net.module, net.variables, example=example)
    return model_traffic(model, jax.devices()[0], _SEGMENTS)
