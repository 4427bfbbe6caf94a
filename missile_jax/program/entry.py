"""A checkpoint that knows what is in it: an Orbax folder with a manifest among its files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

from missile_jax.errors import CheckpointError, one_line
from missile_jax.program import orbax_tree
from missile_jax.spec import PyTree

MANIFEST = "missile.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class LeafRecord:
    """One array. digest: of its bytes."""

    shape: tuple[int, ...]
    dtype: str
    digest: str

    @property
    def size_bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was written.

    written: when, in UTC, ISO 8601. leaves: by their path in the tree, such as
        ``params/Dense_0/kernel``. files: digests of Orbax's files by their path in the folder.
    """

    name: str
    written: str
    leaves: dict[str, LeafRecord]
    files: dict[str, str]

    @property
    def size_bytes(self) -> int:
        """Of all leaves."""
        return sum(leaf.size_bytes for leaf in self.leaves.values())

    def to_json(self) -> str:
        body = {"format": _FORMAT, **asdict(self)}
        return _dump(body | {"digest": _digest(_dump(body).encode())})

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises ValueError unless `text` is, to the character, what `to_json` gave."""
        body = json.loads(text)
        if not isinstance(body, dict) or body.get("format") != _FORMAT:
            raise ValueError(f"it is not of format {_FORMAT}")
        try:
            leaves = {
                path: LeafRecord(tuple(leaf["shape"]), leaf["dtype"], leaf["digest"])
                for path, leaf in body["leaves"].items()
            }
            manifest = cls(body["name"], body["written"], leaves, body["files"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it lacks a field: {error!r}") from None
        if manifest.to_json() != text:
            raise ValueError("it does not match its own digest")
        return manifest


def write(folder: Path, name: str, tree: PyTree) -> Manifest:
    """Writes `tree`, of arrays, to a folder that does not exist yet; returns when it is on disk."""
    tree = jax.tree.map(np.asarray, tree)
    leaves = by_path(tree)
    orbax_tree.save(folder, tree)
    manifest = Manifest(
        name,
        datetime.now(UTC).isoformat(timespec="seconds"),
        {path: _record(leaf) for path, leaf in leaves.items()},
        {path: _file_digest(folder / path) for path in _files(folder)},
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    for path in (*folder.rglob("*"), folder, folder.parent):
        sync(path)
    return manifest


def read(
    folder: Path, *, manifest: Manifest | None = None, only: Collection[str] | None = None
) -> PyTree:
    """The pytree of numpy arrays in `folder`, each checked against the manifest.

    manifest: what `write` returned; by default the one in `folder`.
    only: of a tree that is a dict, the keys to read.

    Raises CheckpointError if anything is missing, or is not what was written.
    """
    manifest = manifest or read_manifest(folder)
    try:
        target = orbax_tree.shapes(folder)
        _check_tree(manifest, by_path(target))
        if only is not None:
            target = {key: target[key] for key in only}
        tree = orbax_tree.restore(folder, target)
    except Exception as error:
        raise CheckpointError(
            f"the checkpoint at {folder} is damaged: {one_line(error)}"
        ) from error
    damaged = _damaged(manifest, tree)
    if damaged:
        raise CheckpointError(
            f"the checkpoint at {folder} is damaged: not the bytes that were written: "
            f"{', '.join(damaged)}"
        )
    return tree


def read_manifest(folder: Path) -> Manifest:
    """Raises CheckpointError if there is none, or it is damaged."""
    try:
        return Manifest.from_json((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / MANIFEST} cannot be read: {one_line(error)}") from None


def verify(folder: Path) -> list[str]:
    """What is damaged, a line for each; nothing if every file and leaf is as it was written.

    Leaves are read where the files are intact: of a damaged one there is no telling.
    """
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:
        return [str(error)]
    found = {path: _file_digest(folder / path) for path in _files(folder)}
    lines = [
        f"file {path} {_how(manifest.files.get(path), found.get(path))}"
        for path in sorted(manifest.files.keys() | found.keys())
        if manifest.files.get(path) != found.get(path)
    ]
    if not lines:
        try:
            read(folder)
        except CheckpointError as error:
            lines.append(str(error))
    return lines


def sync(path: Path) -> None:
    """Returns once a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _how(written: str | None, found: str | None) -> str:
    if written is None:
        return "was not written"
    return "is missing" if found is None else "has changed"


def _check_tree(manifest: Manifest, leaves: dict[str, Any]) -> None:
    different = sorted(manifest.leaves.keys() ^ leaves.keys())
    if different:
        raise ValueError(f"another tree than was written: {', '.join(different[:5])}")
    for path, leaf in leaves.items():
        want = manifest.leaves[path]
        got = (tuple(leaf.shape), np.dtype(leaf.dtype).name)
        if got != (want.shape, want.dtype):
            raise ValueError(
                f"{path} has shape {got[0]} and dtype {got[1]}, "
                f"{want.shape} and {want.dtype} were written"
            )


def _damaged(manifest: Manifest, tree: PyTree) -> list[str]:
    leaves = by_path(tree).items()
    return [path for path, leaf in leaves if _record(leaf) != manifest.leaves[path]]


def by_path(tree: PyTree) -> dict[str, Any]:
    """The leaves of `tree` by their path in it. Raises ValueError if two have the same."""
    named = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]
    found = dict(named)
    if len(found) != len(named):
        raise ValueError("two leaves have the same path")
    return found


def _record(leaf: np.ndarray) -> LeafRecord:
    # Read as bytes, since not every dtype has a buffer.
    flat = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
    return LeafRecord(leaf.shape, leaf.dtype.name, _digest(flat.data))


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            yield path.relative_to(folder).as_posix()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, _hash).hexdigest()


def _digest(data: Any) -> str:
    digest = _hash()
    digest.update(data)
    return digest.hexdigest()


def _hash() -> Any:
    return hashlib.blake2b(digest_size=20)


def _dump(body: dict[str, Any]) -> str:
    return json.dumps(body, indent=1, sort_keys=True) + "\n"
