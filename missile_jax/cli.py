"""The command ``missile``."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

from missile_jax import serving
from missile_jax.config import Config, zoo
from missile_jax.errors import ConfigError
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
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    policy: Annotated[str | None, typer.Option(help="Who goes next on the device.")] = None,
) -> None:
    """Load the models in FILE and serve them until SIGINT or SIGTERM, then drain."""
    flags = {"--http-port": http_port, "--host": host, "--policy": policy}
    config = _load(file, flags)
    http = config.http
    serving.serve(
        [section.build(name) for name, section in config.models.items()],
        http_port=http.port,
        host=http.host,
        policy=config.build_policy(),
        device_memory=config.device_memory,
        host_memory=config.host_memory,
        disk=config.disk,
        max_body_bytes=http.max_body_bytes,
        max_header_bytes=http.max_header_bytes,
        drain_s=http.drain_s,
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
    """Run the command. A ConfigError is printed without its traceback and exits with 2."""
    try:
        app()
    except ConfigError as error:
        typer.echo(error, err=True)
        sys.exit(2)
