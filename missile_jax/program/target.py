"""Devices to compile for that are not in this machine: a GPU's programs, made without the GPU."""

from __future__ import annotations

import functools
from importlib import resources
from importlib.resources.abc import Traversable

from jax.experimental import topologies

from missile_jax.errors import ConfigError
from missile_jax.spec import JaxDevice


def target_names() -> tuple[str, ...]:
    """Every name that `target_device` takes."""
    names = (file.name for file in _targets().iterdir())
    return tuple(sorted(n.removesuffix(".txtpb") for n in names if n.endswith(".txtpb")))


@functools.cache
def target_device(name: str) -> JaxDevice:
    """One device of this kind, such as ``"h100"``: programs compile for it but can not run.

    Wants the files of JAX's CUDA plugin, and ``JAX_PLATFORMS=cpu`` on a machine without a GPU
    (docs/development.md). What it compiles was not autotuned, which takes the GPU itself.

    Raises ConfigError for an unknown name, or if the plugin is not there.
    """
    file = _targets() / f"{name}.txtpb"
    if not file.is_file():
        raise ConfigError(f"no GPU target {name!r}; there are: {', '.join(target_names())}")
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=file.read_text(), topology="1x1x1"
        )
    except (RuntimeError, NotImplementedError) as error:
        raise ConfigError(
            f"can not compile for {name!r}, is a CUDA plugin there? {error}"
        ) from None
    return topology.devices[0]


def _targets() -> Traversable:
    return resources.files("missile_jax") / "data" / "gpu_targets"
