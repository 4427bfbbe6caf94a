"""A folder for arbiters of the test alone; none outlives it."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.arbiter_processes import Child, arbiters


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield tmp_path / "missile"
    for pid in arbiters(tmp_path):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    made: list[Child] = []

    def make(device: str, name: str, kind: str = "best_effort", weight: float = 1.0) -> Child:
        made.append(Child(device, name, kind, weight))
        return made[-1]

    yield make
    for one in made:
        one.close()
