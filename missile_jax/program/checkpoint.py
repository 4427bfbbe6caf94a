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


def check_fit(
    name: str, path: Path, found: PyTree, wanted: PyTree, needed: PyTree | None = None
) -> None:
    """Compares what was read from `path` with the leaves that model `name` has.

    wanted: leaves with shape and dtype. needed: those that may not lack; all by default.

    Raises CheckpointError that names leaves that do not fit, three at most.
    """
    has, wants = entry.by_path(found), entry.by_path(wanted)
    needs = wants if needed is None else entry.by_path(needed)
    wrong = [f"{leaf} is missing" for leaf in needs.keys() - has.keys()]
    wrong += [f"the model has no {leaf}" for leaf in has.keys() - wants.keys()]
    for leaf in wants.keys() & has.keys():
        got, want = _form(has[leaf]), _form(wants[leaf])
        if got != want:
            wrong.append(f"{leaf} is {got}, the model's is {want}")
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"model {name!r}: the checkpoint at {path} does not go with it: "
            f"{'; '.join(sorted(wrong)[:3])}{more}"
        )


def _form(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


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
