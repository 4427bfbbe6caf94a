"""What does the PJRT wrapper cost over the plugin that it wraps?

Both are platforms of one process, `bare` and `missile`, and take turns in blocks. *Passed*: a call
that the wrapper has nothing to do with. *Accounted*: a launch with its one result, from the call to
the end of the result's handle, and an upload likewise. A step of ResNet-50 goes from a host array
to a host array. The plugin is the one that ``MISSILE_PJRT_LIBRARY`` names, else the tests' CPU one.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import xla_bridge
from rich.console import Console

import missile_jax.models as zoo
from benchmarks.report import Report
from missile_jax.errors import ConfigError
from missile_jax.plugin.handlers import pointer
from missile_jax.plugin.library import VARIABLE, find_library
from missile_jax.plugin.register import client_options, register

SIDES = ("bare", "missile")
# Made by `make test`, which installs plugins to wrap.
PLUGIN = Path(sys.prefix) / "pjrt/lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so"

Call = Callable[[], Any]


def run(quick: bool, seed: int, console: Console) -> Report:
    _register()
    report = Report("wrapper", seed)
    devices = {side: jax.devices(side)[0] for side in SIDES}
    blocks = 40 if quick else 200

    console.print("[dim]calls that pass through[/]")
    passed = _interleaved({side: _attributes(side) for side in SIDES}, blocks, 500)
    report.rows.append(row("passed", passed))

    console.print("[dim]launches and uploads[/]")
    rng = np.random.default_rng(seed)
    small = rng.normal(size=16).astype(np.float32)
    page = rng.normal(size=1024).astype(np.float32)
    launches = {side: _launch(device, small) for side, device in devices.items()}
    report.rows.append(row("launch", _interleaved(launches, blocks, 100)))
    uploads = {side: _upload(device, page) for side, device in devices.items()}
    report.rows.append(row("upload 4 KiB", _interleaved(uploads, blocks, 100)))

    console.print("[dim]steps of ResNet-50[/]")
    steps = {side: _step(device) for side, device in devices.items()}
    report.rows.append(row("ResNet-50 step", _interleaved(steps, 25 if quick else 100, 1)))

    report.summary = summarise(report.rows)
    return report


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What a call of each kind costs more than the bare plugin's, and a step's times."""
    of = {row["what"]: row for row in rows}
    return {
        "ns_per_call_passed": of["passed"]["extra_ns"],
        "ns_per_call_accounted": of["launch"]["extra_ns"],
        "ns_per_upload": of["upload 4 KiB"]["extra_ns"],
        "resnet50_step_ratio": of["ResNet-50 step"]["ratio"],
        "resnet50_step_ms": of["ResNet-50 step"]["missile_us"] / 1e3,
    }


def _register() -> None:
    """Raises ConfigError if there is no plugin to wrap."""
    path = os.environ.setdefault(VARIABLE, str(PLUGIN))
    if not Path(path).exists():
        raise ConfigError(
            f"no plugin to wrap at {path}: `make test` installs one, or {VARIABLE} names one"
        )
    library = find_library()
    xla_bridge._nonexperimental_plugins.add("bare")
    xla_bridge.register_plugin("bare", library_path=path, options=lambda: client_options(library))
    register()
    jax.config.update("jax_platforms", "bare,missile,cpu")


def _interleaved(sides: dict[str, Call], blocks: int, calls: int) -> dict[str, np.ndarray]:
    """Mean time of a call in ns [blocks], of each side; who goes first alternates."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for call in sides.values():
        for _ in range(calls):
            call()
    order = list(sides)
    for _ in range(blocks):
        for side in order:
            call = sides[side]
            start = time.perf_counter_ns()
            for _ in range(calls):
                call()
            times[side].append((time.perf_counter_ns() - start) / calls)
        order.reverse()
    return {side: np.array(values) for side, values in times.items()}


def row(what: str, times: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """times: mean ns of a call [blocks], of each side; blocks of one place are neighbours."""
    bare, wrapped = (times[side] for side in SIDES)
    return {
        "what": what,
        "bare_us": float(np.median(bare)) / 1e3,
        "missile_us": float(np.median(wrapped)) / 1e3,
        # Of neighbours, so that what slows both is in neither figure.
        "extra_ns": float(np.median(wrapped - bare)),
        "ratio": float(np.median(wrapped / bare)),
        "n": len(bare),
    }


class _AttributesArgs(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("extensions", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("num_attributes", ctypes.c_size_t),
    )


# Where PJRT_Plugin_Attributes is in the table, behind 40 bytes of head.
_ATTRIBUTES_OFFSET = 40 + 4 * ctypes.sizeof(ctypes.c_void_p)


def _attributes(side: str) -> Call:
    """A call through the table, of a function that the wrapper does not override."""
    table = pointer(xla_bridge._backend_factories[side].c_api)
    address = ctypes.c_void_p.from_address(table + _ATTRIBUTES_OFFSET).value
    assert address is not None
    function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_AttributesArgs))(address)
    args = _AttributesArgs(ctypes.sizeof(_AttributesArgs))
    reference = ctypes.byref(args)
    return lambda: function(reference)


def _launch(device: Any, x: np.ndarray) -> Call:
    f, on_device = jax.jit(lambda v: v + 1), jax.device_put(x, device)
    return lambda: f(on_device).block_until_ready()


def _upload(device: Any, x: np.ndarray) -> Call:
    return lambda: jax.device_put(x, device)


def _step(device: Any) -> Call:
    net = zoo.load("resnet50", random_weights=True)
    f = jax.jit(net.module.apply)
    variables = jax.device_put(net.variables, device)
    return lambda: np.asarray(f(variables, jax.device_put(net.example, device)))
