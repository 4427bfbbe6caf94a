"""``missile top``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated

import orjson
import typer
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from missile_jax.arbiter import DEFAULT_DEVICE, TenantFigures, tenants
from missile_jax.cli.arbiter import Device

app = typer.Typer()


@app.command(
    epilog="""\b
Examples:
  missile top
  missile top --device gpu0 --interval 0.5
  missile top --once --json"""
)
def top(
    device: Device = DEFAULT_DEVICE,
    interval: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds between two looks.")
    ] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Look once; figures are since each tenant came.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="With --once: everything that is known, as JSON.")
    ] = False,
) -> None:
    """Show who shares a device: shares of it, memory, launches, waits.

    The table is live until Ctrl-C. A share is the part of the time in which a tenant had launches
    on the device; those of tenants that overlap may come to more than 100 % together.
    """
    if json and not once:
        raise typer.BadParameter("--json needs --once")
    if json:
        found = tenants(device)
        document = None if found is None else [asdict(one) for one in found]
        typer.echo(orjson.dumps({"device": device, "tenants": document}).decode())
        return
    console = Console(highlight=False)
    if once:
        console.print(_table(device, tenants(device), {}))
        return
    earlier: dict[int, TenantFigures] = {}
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        try:
            while True:
                found = tenants(device)
                live.update(_table(device, found, earlier), refresh=True)
                earlier = {_key(one): one for one in found or ()}
                time.sleep(interval)
        except KeyboardInterrupt:
            return


def _key(one: TenantFigures) -> int:
    # Two tenants of one process never come in the same nanosecond.
    return one.joined_ns


def _table(
    device: str, found: Sequence[TenantFigures] | None, earlier: Mapping[int, TenantFigures]
) -> Table | str:
    if not found:
        return f"device {device}: " + ("no arbiter runs" if found is None else "no tenants")
    table = Table(
        "tenant", "class", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
        title=f"device {device}", title_justify="left",
    )  # fmt: skip
    for head in ("pid", "weight", "share", "memory", "peak", "limit", "launches/s", "longest",
                 "waiting", "waits/s", "mean wait"):  # fmt: skip
        table.add_column(head, justify="right")
    for one in found:
        table.add_row(*_cells(one, earlier.get(_key(one))))
    return table


def _cells(one: TenantFigures, before: TenantFigures | None) -> list[str]:
    since_ns = one.joined_ns if before is None else before.now_ns
    seconds = max(one.now_ns - since_ns, 1) / 1e9

    def grown(name: str) -> int:
        return getattr(one, name) - (0 if before is None else getattr(before, name))

    waits = grown("waits")
    return [
        one.name + (" *" if one.holds else ""),
        "latency" if one.latency else "best-effort",
        str(one.pid),
        f"{one.weight:g}",
        f"{100 * grown('busy_ns') / 1e9 / seconds:.0f} %",
        _size(one.memory_bytes),
        _size(one.memory_peak_bytes),
        _size(one.memory_limit_bytes),
        f"{grown('launches') / seconds:.1f}",
        f"{one.longest_ns / 1e6:.1f} ms",
        str(one.wanting),
        f"{waits / seconds:.1f}",
        f"{grown('waited_ns') / 1e6 / waits:.1f} ms" if waits else "-",
    ]


def _size(size_bytes: int) -> str:
    if size_bytes == 0:
        return "-"
    return f"{size_bytes / 2**20:.0f} MiB"
