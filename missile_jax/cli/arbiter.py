"""``missile arbiter``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from missile_jax import arbiter as native

app = typer.Typer()

Device = Annotated[
    str,
    typer.Option(
        help="The device, by the name that all who share it use.", envvar="MISSILE_DEVICE"
    ),
]


@app.command(
    epilog="""\b
Examples:
  missile arbiter
  missile arbiter --device gpu0 --idle-exit 86400"""
)
def arbiter(
    device: Device = native.DEFAULT_DEVICE,
    idle_exit: Annotated[
        float,
        typer.Option(
            min=0.1, max=1e6, help="End after so many seconds without a tenant.", metavar="SECONDS"
        ),
    ] = 30.0,
) -> None:
    """Run the arbiter of a device in this terminal.

    The first tenant of a device starts one by itself: this is for those who would rather see it.
    """
    program = str(native.program())
    os.execv(program, [program, device, str(idle_exit)])
