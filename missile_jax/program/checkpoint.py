"""Parameters from a file: an Orbax checkpoint or a safetensors file, read into host memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from missile_jax.errors import ModelLoadError
from missile_jax.spec import PyTree


def read(name: str, path: Path) -> PyTree:
    """The pytree of numpy arrays in `path`: nested dicts, or what was saved.

    An Orbax checkpoint is a folder. The names in a safetensors file become nested dicts at ``/``,
    or at ``.`` where no name has a ``/``.

    Raises ModelLoadError for model `name` if there is nothing to read or it is damaged.
    """
    if not path.exists():
        raise ModelLoadError(f"model {name!r}: there is no checkpoint at {path}")
    try:
        return _read_orbax(path) if path.is_dir() else _read_safetensors(path)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise ModelLoadError(
            f"model {name!r}: the checkpoint at {path} cannot be read: "
            f"{type(error).__name__}: {first:.300}"
        ) from error


def _read_orbax(path: Path) -> PyTree:
    # Takes a second to import, and only this function needs it.
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.metadata(path.resolve()).item_metadata
        tree = getattr(found, "tree", found)
        # A target without a sharding is restored as a numpy array.
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
        return checkpointer.restore(path.resolve(), target)


def _read_safetensors(path: Path) -> PyTree:
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError("safetensors is not installed: pip install missile-jax[zoo]") from error
    tensors = load_file(path)
    separator = "/" if any("/" in name for name in tensors) else "."
    nested: dict[str, Any] = {}
    for name, array in tensors.items():
        *parents, last = name.split(separator)
        at = nested
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = np.asarray(array)
    return nested
