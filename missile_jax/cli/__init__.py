"""The command ``missile``: one file for each group of commands."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from missile_jax.cli import (
    arbiter,
    bench,
    channel_plan,
    channels,
    client,
    models,
    run,
    serve,
    store,
    token,
    top,
)
from missile_jax.errors import ConfigError, MissileError

app = typer.Typer(
    help="Serve many Flax models from one accelerator.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for group in (serve, models, client, bench, run, top, arbiter):
    app.add_typer(group.app)
channels.app.add_typer(channel_plan.app)
app.add_typer(store.app, name="store")
app.add_typer(channels.app, name="channels")
app.add_typer(token.app, name="token")


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


def main() -> None:
    """Run the command. Errors that this package raises on purpose come without a traceback.

    Exits with 2 for a ConfigError, with 1 for any other.
    """
    try:
        app()
    except MissileError as error:
        typer.echo(error, err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
