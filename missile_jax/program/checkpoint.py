"""Parameters from a file: an Orbax checkpoint, a store's entry or a safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from missile_jax.errors import CheckpointError, one_line
from missile_jax.program import entry, orbax_tree
from missile_jax.spec import PyTree


def read(name: str, path: Path) -> PyTree:
    """The pytree of numpy arrays in `path`: nested dicts, or what was saved.

    An Orbax checkpoint is a folder; one with a manifest, as a store's entries have, is checked
    against it. The names in a safetensors file become nested dicts at ``/``, or at ``.`` where no
    name has a ``/``.

    Raises CheckpointError for model `name` if there is nothing to read or it is damaged.
    """
    if not path.exists():
        raise CheckpointError(f"model {name!r}: there is no checkpoint at {path}")
    try:
        return _read_folder(path) if path.is_dir() else _read_safetensors(path)
    except CheckpointError as error:
        raise CheckpointError(f"model {name!r}: {error}") from error
    except Exception as error:
        raise CheckpointError(
            f"model {name!r}: the checkpoint at {path} cannot be read: {one_line(error)}"
        ) from error


def _read_folder(path: Path) -> PyTree:
    folder = path.resolve()
    try:
        if (folder / entry.MANIFEST).exists():
            return entry.read(folder)
        return orbax_tree.restore(folder, orbax_tree.shapes(folder))
    except Exception:
        # A store's entry that was replaced under the reader's hands: its name leads to the new one.
        if path.exists() and path.resolve() != folder:
            return _read_folder(path)
        raise


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
