"""The command ``missile``."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from missile_jax import serving
from missile_jax.config import Config, zoo
from missile_jax.errors import CheckpointError, ConfigError, ModelError
from missile_jax.memory.catalogue import Catalogue
from missile_jax.observe.logs import configure_logs
from missile_jax.program import checkpoint
from missile_jax.sources import load_config

app = typer.Typer(
    help="Serve many Flax models from one accelerator.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

File = Annotated[Path, typer.Argument(help="YAML file; see examples/serve.yaml.", metavar="FILE")]


@app.command(
    epilog="""\b
Examples:
  missile serve serve.yaml
  missile serve serve.yaml --http-port 9000 --policy fifo
  MISSILE_HTTP_HOST=0.0.0.0 missile serve serve.yaml"""
)
def serve(
    file: File,
    http_port: Annotated[int | None, typer.Option(help="0 takes a free port.")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="0 takes a free port. No gRPC if left out here and in FILE.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on for HTTP.")] = None,
    policy: Annotated[str | None, typer.Option(help="Who goes next on the device.")] = None,
) -> None:
    """Load the models in FILE and serve them until SIGINT or SIGTERM, then drain."""
    flags = {
        "--http-port": http_port,
        "--grpc-port": grpc_port,
        "--host": host,
        "--policy": policy,
    }
    config = _load(file, flags)
    configure_logs(config.log)
    serving.serve(
        config.build_sources(),
        options=config,
        policy=config.build_policy(),
        device_memory=config.device_memory,
        host_memory=config.host_memory,
        disk=config.disk,
        tenants=config.build_tenants(),
        report=typer.echo,
    )


@app.command(
    epilog="""\b
Examples:
  missile config serve.yaml
  MISSILE_HTTP_PORT=9000 missile config serve.yaml"""
)
def config(file: File) -> None:
    """Check FILE, merge it with the environment, and print the result."""
    typer.echo(_load(file, {}).to_yaml(), nl=False)


@app.command()
def models() -> None:
    """List the models of the zoo, each a value for ``zoo:`` in a configuration."""
    for name in zoo().names():
        typer.echo(name)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"missile-jax {installed_version('missile-jax')}")
        raise typer.Exit


store = typer.Typer(
    help="Checkpoints by name, each checked against what was written. Give Model(checkpoint=) or "
    "another program DIR/NAME.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(store, name="store")

Name = Annotated[str, typer.Argument(help="Of the entry; as models are named.", metavar="NAME")]
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


@store.command(
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
    """Store a copy of the checkpoint at PATH, in place of what has that NAME.

    The entry is there in full or not at all, whenever the command ends.
    """
    catalogue = Catalogue(directory)
    manifest = catalogue.add(name, checkpoint.read(name, path))
    typer.echo(
        f"{catalogue.path(name)}: {len(manifest.leaves)} leaves, {manifest.size_bytes} bytes"
    )


@store.command(
    epilog="""\b
Examples:
  missile store ls
  MISSILE_STORE=/srv/models missile store ls"""
)
def ls(directory: Dir) -> None:
    """List the entries: name, number of arrays, their bytes, when they were written."""
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


@store.command(
    epilog="""\b
Examples:
  missile store verify
  missile store verify bert"""
)
def verify(
    directory: Dir,
    name: Annotated[
        str | None, typer.Argument(help="All entries if left out.", metavar="[NAME]")
    ] = None,
) -> None:
    """Check every file and array against its checksum; exit with 1 and name what is damaged."""
    catalogue = Catalogue(directory)
    found = {n: catalogue.verify(n) for n in (catalogue.names() if name is None else [name])}
    for entry, damaged in found.items():
        for line in damaged or ["intact"]:
            typer.echo(f"{entry}: {line}")
    if any(found.values()):
        raise typer.Exit(1)


@store.command(
    epilog="""\b
Examples:
  missile store rm bert"""
)
def rm(name: Name, directory: Dir) -> None:
    """Remove an entry and its files."""
    Catalogue(directory).remove(name)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print and exit.")
    ] = False,
) -> None:
    """Options of the command itself."""


def _load(file: Path, flags: dict[str, int | str | None]) -> Config:
    # Factories are looked up beside the file that names them.
    sys.path.insert(0, str(file.parent.resolve()))
    return load_config(file, environment=os.environ, flags=flags)


def main() -> None:
    """Run the command. Errors of configuration and models are printed without their traceback.

    Exits with 2 for a ConfigError, with 1 for a ModelError.
    """
    try:
        app()
    except (ConfigError, ModelError) as error:
        typer.echo(error, err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
