"""``missile serve`` and ``missile config``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from missile_jax import serving
from missile_jax.config import Config
from missile_jax.observe.logs import configure_logs
from missile_jax.sources import load_config

app = typer.Typer()

File = Annotated[Path, typer.Argument(help="YAML file; see examples/serve.yaml.", metavar="FILE")]


@app.command(
    epilog="""\b
Examples:
  missile serve serve.yaml
  missile serve serve.yaml --http-port 9000 --policy fifo
  MISSILE_AUTH_INSECURE=true MISSILE_HTTP_HOST=0.0.0.0 missile serve serve.yaml"""
)
def serve(
    file: File,
    http_port: Annotated[int | None, typer.Option(help="0 takes a free port.")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="0 takes a free port. No gRPC if left out here and in FILE.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on for HTTP; grpc.host in FILE for gRPC.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Who goes next on the device.")] = None,
) -> None:
    """Serve the models in FILE until SIGINT or SIGTERM, then drain.

    At SIGHUP the tokens and certificates of FILE are read again; requests go on.
    """
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
        reread=lambda: _load(file, flags),
        report=typer.echo,
    )


@app.command(
    epilog="""\b
Examples:
  missile config serve.yaml
  MISSILE_HTTP_PORT=9000 missile config serve.yaml"""
)
def config(file: File) -> None:
    """Check FILE, merge it with the environment, print the result."""
    typer.echo(_load(file, {}).to_yaml(), nl=False)


def _load(file: Path, flags: dict[str, int | str | None]) -> Config:
    # Factories are looked up beside the file that names them.
    beside = str(file.parent.resolve())
    if sys.path[0] != beside:
        sys.path.insert(0, beside)
    return load_config(file, environment=os.environ, flags=flags)
