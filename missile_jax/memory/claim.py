"""Folders that belong to a process for as long as it lives.

A claim is a lock on the folder itself, which the system ends with the process, however that ends.
So whoever comes next can tell the leftovers of a killed process from the work of a living one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path


class Claim:
    """A new folder, empty. Claimed until `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = os.open(path, os.O_RDONLY)
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def release(self) -> None:
        """Others may remove the folder from now on."""
        os.close(self._handle)


class Claims:
    """Claimed folders in `root`, which holds nothing else. Made if it is not there.

    Raises OSError where `root` cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else, in any process, is in here. `new` and `sweep` are called in here only."""
        handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def new(self, prefix: str) -> Claim:
        """Claims a new folder whose name begins with `prefix`."""
        path = self.root / f"{prefix}.{secrets.token_hex(8)}"
        path.mkdir()
        return Claim(path)

    def sweep(self, keep: Collection[Path] = ()) -> list[Path]:
        """Removes the folders that nobody alive has claimed, but those in `keep`."""
        left = [p for p in self.root.iterdir() if p.is_dir() and p not in keep and not _claimed(p)]
        for path in left:
            shutil.rmtree(path)
        return left


def _claimed(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
