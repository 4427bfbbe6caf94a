"""A pytree of numpy arrays in a folder, as Orbax writes and reads it.

Orbax takes a second to import, so that is left until it is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from missile_jax.spec import PyTree

if TYPE_CHECKING:
    import orbax.checkpoint as ocp


def save(folder: Path, tree: PyTree) -> None:
    """Writes `tree` to a folder that does not exist yet. Tuples come back as lists."""
    import orbax.checkpoint as ocp

    with _checkpointer() as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(tree))


def shapes(folder: Path) -> PyTree:
    """The tree in `folder` with a ShapeDtypeStruct for each array."""
    with _checkpointer() as checkpointer:
        found = checkpointer.metadata(folder.absolute()).item_metadata
    return jax.tree.map(_shape, getattr(found, "tree", found))


def restore(folder: Path, target: PyTree) -> PyTree:
    """The numpy arrays in `folder` that `target`, all or a part of `shapes(folder)`, asks for."""
    import orbax.checkpoint as ocp

    args = ocp.args.PyTreeRestore(
        item=target,
        partial_restore=True,
        restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target),
    )
    with _checkpointer() as checkpointer:
        return checkpointer.restore(folder.absolute(), args=args)


def _checkpointer() -> ocp.Checkpointer:
    import orbax.checkpoint as ocp

    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
