"""The disk tier: models that host memory has no room for, as Orbax checkpoints."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from missile_jax.errors import CheckpointError, ConfigError, HostMemoryError, one_line
from missile_jax.memory.claim import Claims
from missile_jax.memory.store import HostModel
from missile_jax.program import entry
from missile_jax.program.entry import Manifest


class Disk:
    """A folder below `path` for as long as the process lives, and the thread that works on it.

    A model is written once: its parameters never change. What killed processes have left below
    `path` is removed. All methods but `run` and `close` are called on the thread.

    folder: where this process writes.

    Raises ConfigError where `path` cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.stats = {"writes": 0, "written_bytes": 0, "reads": 0, "read_bytes": 0}
        try:
            claims = Claims(path.absolute() / ".missile-spill")
            with claims.alone():
                claims.sweep()
                self._claim = claims.new("runtime")
        except OSError as error:
            raise ConfigError(f"disk={str(path)!r} cannot be used: {error}") from None
        self.folder = self._claim.path
        self._saved: dict[HostModel, tuple[Path, Manifest]] = {}
        self._numbers = itertools.count()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="missile-disk")

    def run(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        """Calls `work` on the thread, after all that was asked for before."""
        return self._thread.submit(work, *args)

    def save(self, model: HostModel) -> None:
        """Writes a model that is in host memory, unless it is there already.

        Raises HostMemoryError, since host memory keeps what cannot be written.
        """
        if model in self._saved or model.data is None:
            return
        folder = self.folder / f"{model.name}.{next(self._numbers)}"
        try:
            manifest = entry.write(folder, model.name, dict(_named(model.data)))
        except Exception as error:
            # Orbax's unfinished folder beside it goes as well.
            for left in self.folder.glob(f"{folder.name}*"):
                shutil.rmtree(left, ignore_errors=True)
            raise HostMemoryError(
                f"host memory is full, and model {model.name!r} cannot be written to "
                f"{self.folder}: {one_line(error)}"
            ) from error
        self._saved[model] = folder, manifest
        self.stats["writes"] += 1
        self.stats["written_bytes"] += model.size_bytes

    def load(self, model: HostModel) -> tuple[np.ndarray, ...]:
        """The bytes of each group; those that it is counted with in host memory are not read.

        Raises CheckpointError if they cannot be read, or are not what was written.
        """
        folder, manifest = self._saved[model]
        groups = model.groups
        data = {k: d for k, group in enumerate(groups) if (d := group.counted_data) is not None}
        missing = [k for k in range(len(groups)) if k not in data]
        if missing:
            try:
                read = entry.read(folder, manifest=manifest, only=[str(k) for k in missing])
            except CheckpointError as error:
                raise CheckpointError(f"model {model.name!r}: {error}") from error
            data |= {k: groups[k].share(read[str(k)]) for k in missing}
            self.stats["reads"] += 1
            self.stats["read_bytes"] += sum(array.nbytes for array in read.values())
        return tuple(data[k] for k in range(len(groups)))

    def remove(self, model: HostModel) -> None:
        """Forgets a model."""
        folder, _ = self._saved.pop(model, (None, None))
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Ends the thread after what it has begun, and removes the folder. May be called twice."""
        self._thread.shutdown(cancel_futures=True)
        with contextlib.suppress(OSError):
            shutil.rmtree(self.folder)
        self._claim.release()


def _named(data: tuple[np.ndarray, ...]) -> list[tuple[str, np.ndarray]]:
    return [(str(k), group) for k, group in enumerate(data)]
