"""``missile store``: checkpoints by name."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from missile_jax.errors import CheckpointError
from missile_jax.memory.catalogue import Catalogue
from missile_jax.program import checkpoint

app = typer.Typer(
    help="Checkpoints by name, each checked against what was written. Give Model(checkpoint=) or "
    "another program DIR/NAME.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[
    str, typer.Argument(help="Name of the entry; as models are named.", metavar="NAME")
]
Dir = Annotated[
    Path,
    typer.Option(
        "--dir",
        help="Where the store is.",
        envvar="MISSILE_STORE",
        default_factory=lambda: Path.home() / ".local" / "share" / "missile_jax" / "store",
        show_default="~/.local/share/missile_jax/store",
    ),
]


@app.command(
    epilog="""\b
Examples:
  missile store add bert checkpoints/bert
  missile store add resnet resnet50.safetensors --dir /srv/models"""
)
def add(
    name: Name,
    path: Annotated[
        Path, typer.Argument(help="Orbax checkpoint or .safetensors file.", metavar="PATH")
    ],
    directory: Dir,
) -> None:
    """Store a copy of the checkpoint at PATH under NAME.

    An entry of that name is replaced. The new one is there in full or not at all, whenever the
    command ends.
    """
    catalogue = Catalogue(directory)
    manifest = catalogue.add(name, checkpoint.read(name, path))
    typer.echo(
        f"{catalogue.path(name)}: {len(manifest.leaves)} leaves, {manifest.size_bytes} bytes"
    )


@app.command(
    epilog="""\b
Examples:
  missile store ls
  MISSILE_STORE=/srv/models missile store ls"""
)
def ls(directory: Dir) -> None:
    """List the entries: arrays, bytes, when they were written."""
    catalogue = Catalogue(directory)
    table = Table("name", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("leaves", justify="right")
    table.add_column("bytes", justify="right")
    table.add_column("written")
    for name in catalogue.names():
        try:
            manifest = catalogue.manifest(name)
        except CheckpointError:
            table.add_row(name, "-", "-", "damaged")
            continue
        written = datetime.fromisoformat(manifest.written).astimezone()
        leaves, size = str(len(manifest.leaves)), str(manifest.size_bytes)
        table.add_row(name, leaves, size, f"{written:%Y-%m-%d %H:%M}")
    Console(highlight=False).print(table)


@app.command(
    epilog="""\b
Examples:
  missile store verify
  missile store verify bert"""
)
def verify(
    directory: Dir,
    name: Annotated[
        str | None, typer.Argument(help="All entries if left out.", metavar="NAME")
    ] = None,
) -> None:
    """Check every file and array against its checksum.

    Names what is damaged, and exits with 1 if anything is.
    """
    catalogue = Catalogue(directory)
    found = {n: catalogue.verify(n) for n in (catalogue.names() if name is None else [name])}
    for entry, damaged in found.items():
        for line in damaged or ["intact"]:
            typer.echo(f"{entry}: {line}")
    if any(found.values()):
        raise typer.Exit(1)


@app.command(
    epilog="""\b
Examples:
  missile store rm bert"""
)
def rm(name: Name, directory: Dir) -> None:
    """Remove an entry and its files."""
    Catalogue(directory).remove(name)
