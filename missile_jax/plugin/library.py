"""Which plugin is wrapped: a library that is named, or the CUDA plugin that is installed."""

from __future__ import annotations

import importlib.util
import os
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from missile_jax.errors import PluginError

VARIABLE = "MISSILE_PJRT_LIBRARY"
# Newest first, as JAX has them.
_CUDA_PACKAGES = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")
_CUDA_LIBRARY = "xla_cuda_plugin.so"

# ELF: e_machine of the machines that Python names like this.
_MACHINES = {"x86_64": 62, "aarch64": 183}
_MACHINE_OFFSET, _HEADER_BYTES = 18, 20


@dataclass(frozen=True, slots=True)
class Library:
    """A PJRT plugin's library. cuda: it is JAX's plugin for NVIDIA's GPUs."""

    path: Path
    cuda: bool


def find_library(environment: Mapping[str, str] = os.environ) -> Library:
    """The library that `environment` names, or else that of the CUDA plugin.

    Raises PluginError if there is none, or it is not one for this machine.
    """
    if named := environment.get(VARIABLE):
        return _checked(Library(Path(named), Path(named).name == _CUDA_LIBRARY))
    for package in _CUDA_PACKAGES:
        for folder in _folders(package):
            if (path := folder / _CUDA_LIBRARY).exists():
                return _checked(Library(path, True))
    raise PluginError(
        f"no plugin to wrap: neither does {VARIABLE} name a library, nor is JAX's CUDA plugin "
        'installed (missile-jax[cuda12] or missile-jax[cuda13], or "jax[cuda12]")'
    )


def _folders(package: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:  # There is no jax_plugins at all.
        return []
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []


def _checked(library: Library) -> Library:
    path = library.path
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise PluginError(f"the plugin to wrap, {path}, cannot be read: {error.strerror}") from None
    if len(header) < _HEADER_BYTES or not header.startswith(b"\x7fELF"):
        raise PluginError(f"the plugin to wrap, {path}, is no shared library (ELF)")
    (machine,) = struct.unpack_from("<H", header, _MACHINE_OFFSET)
    expected = _MACHINES.get(platform.machine())
    if expected is not None and machine != expected:
        names = {number: name for name, number in _MACHINES.items()}
        raise PluginError(
            f"the plugin to wrap, {path}, is for {names.get(machine, f'machine {machine}')}, "
            f"and this is {platform.machine()}"
        )
    return library
