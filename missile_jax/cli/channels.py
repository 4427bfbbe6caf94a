"""``missile channels``: which VRAM channel an address belongs to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from missile_jax._native import CudaProber
from missile_jax.coloring.gpu import cuda_oracle
from missile_jax.coloring.maps import ChannelMap, PermutedMap, XorMap
from missile_jax.coloring.oracle import TimingOracle
from missile_jax.coloring.picture import picture
from missile_jax.coloring.published import published, published_names
from missile_jax.coloring.random_maps import (
    random_permuted_map,
    random_table_map,
    random_xor_map,
)
from missile_jax.coloring.recover import Recovery, recover, reuse
from missile_jax.coloring.saved import SavedMap, default_path, load, save, saved_from
from missile_jax.coloring.sides import SideOracle
from missile_jax.coloring.simulated import simulated_oracle
from missile_jax.errors import ChannelError, ChannelMapError, RecoveryError

app = typer.Typer(
    help="VRAM channels, found by timing.", no_args_is_help=True, rich_markup_mode=None
)

_MAKERS = {"xor": random_xor_map, "permuted": random_permuted_map, "none": random_table_map}

Gpu = Annotated[int, typer.Option("--gpu", min=0, help="Number of the GPU.")]
Simulate = Annotated[
    str | None,
    typer.Option(
        help="A simulated memory instead of a GPU: gtx1080, or a random map as xor:8, permuted:36 "
        "or none:12 (without structure), with :SEED behind.",
        metavar="MAP",
    ),
]
Wrong = Annotated[
    float, typer.Option(min=0, max=0.99, help="Share of wrong timings, simulated ones only.")
]
Sides = Annotated[bool, typer.Option("--sides", help="The two sides of the L2 instead.")]
Pages = Annotated[int, typer.Option(min=2, help="Pages of 2 MiB that are probed.")]
Budget = Annotated[int, typer.Option(min=1, help="Timings at most.")]
Seed = Annotated[int, typer.Option(min=0, help="Of what is probed, and of simulated noise.")]


@app.command(
    epilog="""\b
Examples:
  missile channels probe
  missile channels probe --gpu 1 --out a5500.json
  missile channels probe --sides
  missile channels probe --simulate gtx1080
  missile channels probe --simulate permuted:36:7 --wrong 0.1 --out 36.json"""
)
def probe(
    gpu: Gpu = 0,
    simulate: Simulate = None,
    sides: Sides = False,
    wrong: Wrong = 0.05,
    pages: Pages = 64,
    budget: Budget = 15_000,
    accuracy: Annotated[
        float, typer.Option(help="Share of unseen granules that must be right.")
    ] = 0.999,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Where the map goes; the cache, by the GPU's name.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Even if a map is there.")] = False,
) -> None:
    """Find the channel map of a GPU that nothing else uses, and save it.

    A map that is saved already is tried quickly, and kept if it fits. Exits with 1 where no map
    explains the timings well enough.
    """
    oracle, name = _oracle(gpu, simulate, sides, wrong, pages, seed)
    path = default_path(name) if out is None else out
    if path.exists() and not fresh:
        known = load(path)
        try:
            recovery = reuse(oracle, known.channel_map, budget=budget, seed=seed)
        except RecoveryError as error:
            typer.echo(f"{path} does not fit: {error}; probing anew")
        else:
            _tell(recovery, name)
            typer.echo(f"{path} fits, and is kept")
            return
    recovery = recover(oracle, budget=budget, accuracy=accuracy, seed=seed)
    save(saved_from(recovery, name, simulated=simulate is not None), path)
    _tell(recovery, name)
    typer.echo(f"saved in {path}")


@app.command(
    epilog="""\b
Examples:
  missile channels show gtx1080
  missile channels show a5500.json --state 2"""
)
def show(
    source: Annotated[
        str, typer.Argument(help="A saved map's file, or a published one's name.", metavar="MAP")
    ],
    state: Annotated[int, typer.Option(min=0, help="State of the page.")] = 0,
) -> None:
    """Print a map, and the colours of a page in one of its states."""
    if source in published_names():
        entry = published(source)
        channel_map: ChannelMap = entry.channels
        typer.echo(f"{entry.gpu}. {entry.source}")
    else:
        saved = load(Path(source))
        channel_map = saved.channel_map
        typer.echo(f"{saved.gpu}: {saved.accuracy}, {saved.probes} probes{_label(saved)}")
    for line in _described(channel_map):
        typer.echo(line)
    typer.echo(f"page in state {state} of {channel_map.states}, 64 granules a line:")
    _draw(channel_map.colours(state), channel_map.channels)


@app.command(
    epilog="""\b
Examples:
  missile channels verify a5500.json
  missile channels verify 36.json --simulate permuted:36:7"""
)
def verify(
    file: Annotated[Path, typer.Argument(help="A saved map.")],
    gpu: Gpu = 0,
    simulate: Simulate = None,
    sides: Sides = False,
    wrong: Wrong = 0.05,
    pages: Pages = 64,
    budget: Budget = 15_000,
    accuracy: Annotated[
        float, typer.Option(help="Share of unseen granules that must be right.")
    ] = 0.99,
    seed: Seed = 0,
) -> None:
    """Try a saved map on memory of now. Exits with 1 if it does not fit."""
    saved = load(file)
    oracle, name = _oracle(gpu, simulate, sides, wrong, pages, seed)
    recovery = reuse(oracle, saved.channel_map, budget=budget, accuracy=accuracy, seed=seed)
    _tell(recovery, name)


def _oracle(
    gpu: int, simulate: str | None, sides: bool, wrong: float, pages: int, seed: int
) -> tuple[TimingOracle, str]:
    """What is timed, and its name."""
    if simulate is not None:
        if sides:
            raise ChannelMapError("--sides: the simulated L2 has none; leave out --simulate")
        oracle = simulated_oracle(_simulated(simulate), pages=pages, wrong=wrong, seed=seed)
        return oracle, f"{simulate} (simulated)"
    try:
        prober: CudaProber = cuda_oracle(gpu, pages=pages)
    except (RuntimeError, ValueError) as error:
        raise ChannelError(f"{error}. --simulate probes a simulated memory") from error
    if sides:
        return SideOracle(prober.l2_latency_ns, pages, seed), f"{prober.gpu} L2 side"
    return prober, prober.gpu


def _simulated(text: str) -> ChannelMap:
    if text in published_names():
        return published(text).channels
    match = re.fullmatch(r"(xor|permuted|none):(\d{1,3})(?::(\d{1,9}))?", text)
    if match is None:
        raise ChannelMapError(
            f"--simulate {text!r}: must be one of {', '.join(published_names())}, or "
            "xor:CHANNELS, permuted:CHANNELS or none:CHANNELS, with :SEED behind or not"
        )
    rng = np.random.default_rng(int(match[3] or 0))
    channels = int(match[2])
    if not 2 <= channels <= 80:
        raise ChannelMapError(f"--simulate {text!r}: must have 2 to 80 channels")
    return _MAKERS[match[1]](rng, channels)


def _tell(recovery: Recovery, name: str) -> None:
    typer.echo(f"{name}: {recovery.accuracy}")
    for line in _described(recovery.channel_map):
        typer.echo(line)
    if recovery.banks is not None and recovery.banks.masks is not None:
        banks = 1 << len(recovery.banks.masks)
        typer.echo(f"{banks} banks in a page, rows of {recovery.banks.row_bytes} bytes")
    most = max(recovery.page_probes, default=0)
    typer.echo(f"{recovery.probes} probes, at most {most} for a further page")


def _described(channel_map: ChannelMap) -> list[str]:
    lines = [f"{channel_map.channels} channels, granules of {channel_map.granule_bytes} bytes"]
    match channel_map:
        case XorMap():
            lines.append("XOR of address bits: " + ", ".join(map(hex, channel_map.masks)))
        case PermutedMap():
            lines.append(
                f"groups of {channel_map.channels} granules in {len(channel_map.permutations)} "
                f"orders, by XORs of the group's number: "
                + (", ".join(map(hex, channel_map.index_masks)) or "none")
            )
    return lines


def _label(saved: SavedMap) -> str:
    return " (simulated)" if saved.simulated else ""


def _draw(colours: np.ndarray, channels: int) -> None:
    """In colour on a terminal."""
    console = Console(highlight=False, soft_wrap=True)
    signs = picture(colours)
    rows = colours.reshape(len(signs), -1).tolist()
    for line, row in zip(signs, rows, strict=True):
        text = Text()
        for sign, colour in zip(line, row, strict=True):
            text.append(sign, style=f"color({16 + 199 * colour // max(1, channels - 1)})")
        console.print(text)
