"""A folder of checkpoints by name, which a process that is killed at any moment leaves whole.

ROOT/NAME              a link to the entry that counts
ROOT/.versions/        a folder for each version of an entry; claimed while it is written
ROOT/.versions/NAME.x/entry   an Orbax checkpoint with its manifest (`program.entry`)

A version is written in full and synced before the link is replaced, in one step. Versions that no
link leads to and nobody writes are removed by whoever changes the catalogue next.
"""

from __future__ import annotations

import os
from pathlib import Path

from missile_jax.errors import CheckpointError, ConfigError, ModelNotFoundError
from missile_jax.memory.claim import Claim, Claims
from missile_jax.program import entry
from missile_jax.program.entry import Manifest
from missile_jax.spec import PyTree, check_name


class Catalogue:
    """The checkpoints in `root`, which is made if it is not there. For any number of processes.

    Raises ConfigError where `root` cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        try:
            self._versions = Claims(self.root / ".versions")
            with self._versions.alone():
                self._sweep()
        except OSError as error:
            raise ConfigError(f"the store {root} cannot be used: {error}") from None

    def path(self, name: str) -> Path:
        """The folder of an entry, to give to `Model(checkpoint=)`. Raises ModelNotFoundError."""
        if not (self.root / check_name(name)).is_symlink():
            stored = ", ".join(self.names()) or "none"
            raise ModelNotFoundError(f"no entry named {name!r} in {self.root}; stored: {stored}")
        return self.root / name

    def names(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir() if path.is_symlink())

    def manifest(self, name: str) -> Manifest:
        """Raises ModelNotFoundError, CheckpointError."""
        return entry.read_manifest(self.path(name))

    def add(self, name: str, tree: PyTree) -> Manifest:
        """Stores `tree`, of arrays, in place of what has that name. On disk when it returns.

        Raises ConfigError for a name that is not allowed, CheckpointError if it cannot be written.
        """
        check_name(name)
        with self._versions.alone():
            self._sweep()
            version = self._versions.new(name)
        try:
            manifest = entry.write(version.path / "entry", name, tree)
            with self._versions.alone():
                self._publish(name, version)
        except Exception as error:
            raise CheckpointError(f"{name!r} cannot be stored in {self.root}: {error}") from error
        finally:
            version.release()
            with self._versions.alone():
                self._sweep()
        return manifest

    def verify(self, name: str) -> list[str]:
        """What is damaged, a line for each file and leaf. Raises ModelNotFoundError."""
        folder = self.path(name).resolve()
        damaged = entry.verify(folder)
        # If it was replaced meanwhile, that is what counts.
        return damaged if self.path(name).resolve() == folder else self.verify(name)

    def remove(self, name: str) -> None:
        """Raises ModelNotFoundError."""
        with self._versions.alone():
            self.path(name).unlink()
            entry.sync(self.root)
            self._sweep()

    def _publish(self, name: str, version: Claim) -> None:
        entry.sync(self._versions.root)
        link = version.path / "link"
        link.symlink_to(version.path.relative_to(self.root) / "entry")
        os.replace(link, self.root / name)
        entry.sync(self.root)

    def _sweep(self) -> None:
        links = (self.root / name for name in self.names())
        self._versions.sweep(keep={self.root / link.readlink().parent for link in links})
