"""``missile run``."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from missile_jax.arbiter import DEFAULT_DEVICE, check_device
from missile_jax.errors import ConfigError, PluginError
from missile_jax.plugin import ALWAYS, PLATFORM
from missile_jax.plugin.library import VARIABLE, find_library
from missile_jax.spec import size_bytes

app = typer.Typer()

# Launches of a best-effort process that may be on the device at a time. What is there already is
# what a latency-sensitive launch shares the device with. A GPU has one more, which hides the way
# there; on a CPU that way is short.
_LAUNCHES = {True: 2, False: 1}


@app.command(
    epilog="""\b
Examples:
  missile run --best-effort train.py
  missile run --latency --memory 2GiB -- python server.py --port 8000
  missile run --weight 2 --wrap ./pjrt_c_api_cpu_plugin.so -- python train.py""",
    context_settings={"allow_interspersed_args": False},
)
def run(
    command: Annotated[
        list[str],
        typer.Argument(
            help="What to run, after --; a file whose name ends in .py is run with this Python.",
            metavar="COMMAND...",
        ),
    ],
    latency: Annotated[
        bool,
        typer.Option(
            "--latency/--best-effort",
            help="Its launches never wait, or wait for those of latency-sensitive processes.",
        ),
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(help="What it may have of each device, such as 2GiB.", metavar="SIZE"),
    ] = None,
    weight: Annotated[
        float, typer.Option(min=0.001, max=1000, help="Its share among best-effort processes.")
    ] = 1.0,
    name: Annotated[
        str | None, typer.Option(help="As missile top shows it; else that of the program.")
    ] = None,
    wrap: Annotated[
        Path | None,
        typer.Option(
            help="The PJRT plugin to run on; JAX's CUDA plugin if left out.", metavar="PATH"
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Those who name the same device share it; gpu and the number of the first visible "
            "GPU, or cpu, if left out.",
            envvar="MISSILE_DEVICE",
        ),
    ] = None,
    launches: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Best-effort launches on the device at a time."),
    ] = None,
    idle: Annotated[
        bool | None,
        typer.Option(
            "--idle/--no-idle",
            help="Whether its threads take processors that nobody else wants (SCHED_IDLE); if left "
            "out, best-effort processes on a CPU do.",
        ),
    ] = None,
    arbiter: Annotated[
        bool, typer.Option("--arbiter/--no-arbiter", help="Whether an arbiter says who may launch.")
    ] = True,
) -> None:
    """Run a program whose JAX shares its device with other processes.

    The program needs no change. Its environment asks JAX for the platform missile; jax.devices(),
    jax.devices("gpu") and jax.devices("cuda") are that one's. A program that sets jax_platforms
    itself to others keeps what it sets, and a warning says so.
    """
    environment = dict(os.environ)
    if wrap is not None:
        environment[VARIABLE] = str(wrap.absolute())
    library = find_library(environment)
    # This program may run under `missile run` itself: what it is does not go on to the next.
    for option in ("ARBITER", "IDLE", "LAUNCHES"):
        environment.pop(f"MISSILE_PJRT_{option}", None)
    environment |= {
        VARIABLE: str(library.path),
        ALWAYS: "1",
        "JAX_PLATFORMS": f"{PLATFORM},cpu",
        "MISSILE_PJRT_TENANT": name or _name(command),
        "MISSILE_PJRT_CLASS": "latency" if latency else "best_effort",
        "MISSILE_PJRT_WEIGHT": f"{weight:g}",
    }
    if memory is not None:
        environment["MISSILE_PJRT_MEMORY"] = str(size_bytes("--memory", memory))
    if launches is None and not latency:
        launches = _LAUNCHES[library.cuda]
    if launches is not None:
        environment["MISSILE_PJRT_LAUNCHES"] = str(launches)
    if arbiter:
        shared = device or _device(library.cuda, environment)
        check_device(shared)
        environment["MISSILE_PJRT_ARBITER"] = shared
    if idle if idle is not None else (arbiter and not latency and not library.cuda):
        if not arbiter:
            raise ConfigError("--idle needs the arbiter, got --no-arbiter")
        environment["MISSILE_PJRT_IDLE"] = "1"
    if command[0].endswith(".py") and Path(command[0]).is_file():
        command = [sys.executable, *command]
    program = shutil.which(command[0])
    if program is None:
        raise ConfigError(f"there is no program {command[0]!r} to run")
    try:
        os.execve(program, command, environment)
    except OSError as error:
        raise PluginError(f"{program} cannot be run: {error.strerror}") from error


def _device(cuda: bool, environment: dict[str, str]) -> str:
    if not cuda:
        return DEFAULT_DEVICE
    first = environment.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    return "gpu" + (first or "0")


def _name(command: list[str]) -> str:
    """That of the script, if there is one among the first words; else of the program."""
    script = next((word for word in command[1:3] if word.endswith(".py")), command[0])
    plain = "".join(c if " " <= c <= "~" else "?" for c in Path(script).name)
    return plain[:63] or "tenant"
