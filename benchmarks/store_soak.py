"""Does a store survive writers that are killed at any moment, and is every flipped bit found?

A process adds and replaces entries without a pause and is killed after a random time. Each entry
must then be the one before or the one that was being written, in full; what the writer left behind
must go when the store is opened next. Then a bit of a random file of a random entry is flipped,
and `verify` must name that file.
"""

from __future__ import annotations

import itertools
import multiprocessing
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

# So that a writer, which is forked from a process that has imported this, starts at once.
import orbax.checkpoint  # noqa: F401
from rich.console import Console

from benchmarks.report import Report
from missile_jax import CheckpointError
from missile_jax.memory.catalogue import Catalogue
from missile_jax.program import checkpoint

NAMES = ("first", "second", "new")
# The last one is taken away before each writer starts: it is added, the others are replaced.
_ADDED = NAMES.index("new")
_ABSENT = 0
# A writer is killed at most this long after its first write, which takes longer than others: within
# one of the next few.
_LONGEST_S = 0.25
_PATIENCE_S = 60.0


def run(kills: int, flips: int, seed: int, console: Console) -> Report:
    """kills: that fall inside of a write; those that fall between two are not enough."""
    report = Report("store-soak", seed)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        start = time.perf_counter()
        report.rows = _kill_writers(root, kills, rng, console)
        seconds = time.perf_counter() - start
        found = _flip_bits(Catalogue(root), flips, rng)
    ends = Counter(row["end"] for row in report.rows)
    report.summary = {
        "kills": len(report.rows),
        "kills_during_write": sum(row["writing"] for row in report.rows),
        "ended_old": ends["old"],
        "ended_new": ends["new"],
        "torn": ends["torn"],
        "leftovers": sum(row["leftovers"] for row in report.rows),
        "leftovers_not_removed": sum(row["not_removed"] for row in report.rows),
        "kill_seconds": seconds,
        "flips": flips,
        "flips_found": found,
    }
    return report


def _kill_writers(
    root: Path, kills: int, rng: random.Random, console: Console
) -> list[dict[str, Any]]:
    # Forked from a process that has only imported, and has none of this one's threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    begun, ended = (context.Array("q", len(NAMES), lock=False) for _ in range(2))
    catalogue = Catalogue(root)
    for at, name in enumerate(NAMES):
        begun[at] = ended[at] = at + 1
        catalogue.add(name, _tree(at + 1))
    rows = []
    while sum(row["writing"] for row in rows) < kills:
        if begun[_ADDED] != _ABSENT:
            catalogue.remove(NAMES[_ADDED])
            begun[_ADDED] = ended[_ADDED] = _ABSENT
        before = list(ended)
        writer = context.Process(target=_write, args=(root, rng.random(), begun, ended))
        writer.start()
        _await_change(before, ended)
        time.sleep(rng.uniform(0, _LONGEST_S))
        writer.kill()
        writer.join()
        rows.append(_inspect(root, begun, ended))
        if len(rows) % 20 == 0:
            console.print(f"{len(rows)} writers killed")
    return rows


def _await_change(before: list[int], ended: Any) -> None:
    patience = time.monotonic() + _PATIENCE_S
    while list(ended) == before:
        if time.monotonic() > patience:
            raise TimeoutError(f"no writer has written within {_PATIENCE_S:.0f} s")
        time.sleep(0.001)


def _write(root: Path, seed: float, begun: Any, ended: Any) -> None:
    """Adds and replaces entries until it is killed. Notes the value before and after each write."""
    rng = random.Random(seed)
    catalogue = Catalogue(root)
    for value in itertools.count(max(begun) + 1):
        at = rng.randrange(len(NAMES))
        begun[at] = value
        catalogue.add(NAMES[at], _tree(value))
        ended[at] = value


def _inspect(root: Path, begun: Any, ended: Any) -> dict[str, Any]:
    """What a writer has left; `begun` and `ended` are set to what is in the store from now on."""
    row = {
        "writing": any(b != e for b, e in zip(begun, ended, strict=True)),
        "end": "between writes",
        "leftovers": _surplus(root),
    }
    catalogue = Catalogue(root)
    row["not_removed"] = _surplus(root)
    for at, name in enumerate(NAMES):
        found = _value(catalogue, name)
        if found not in (begun[at], ended[at]) or (found and catalogue.verify(name)):
            row["end"] = "torn"
            found = max(begun)
            catalogue.add(name, _tree(found))
        elif begun[at] != ended[at] and row["end"] != "torn":
            row["end"] = "new" if found == begun[at] else "old"
        begun[at] = ended[at] = found
    return row


def _surplus(root: Path) -> int:
    """Folders of versions that no entry leads to."""
    versions = {path for path in (root / ".versions").iterdir() if path.is_dir()}
    links = (path for path in root.iterdir() if path.is_symlink())
    return len(versions - {root / link.readlink().parent for link in links})


def _tree(value: int) -> dict[str, Any]:
    """Small, and of the one value throughout, so that a mixture shows."""
    return {"dense": {"kernel": np.full((64, 64), value), "bias": np.full(64, value)}}


def _value(catalogue: Catalogue, name: str) -> int | None:
    """What an entry is made of; None if it cannot be told."""
    if name not in catalogue.names():
        return _ABSENT
    try:
        dense = checkpoint.read(name, catalogue.path(name))["dense"]
    except CheckpointError:
        return None
    values = np.unique(np.concatenate([dense["kernel"].ravel(), dense["bias"]]))
    return int(values[0]) if len(values) == 1 else None


def _flip_bits(catalogue: Catalogue, flips: int, rng: random.Random) -> int:
    """Flips one bit at a time and takes it back; returns how many were found."""
    found = 0
    for _ in range(flips):
        name = rng.choice(catalogue.names())
        folder = catalogue.path(name)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        path = rng.choice([path for path in files if path.stat().st_size])
        whole = path.read_bytes()
        flipped = bytearray(whole)
        bit = rng.randrange(8 * len(whole))
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        relative = path.relative_to(folder).as_posix()
        found += any(relative in line for line in catalogue.verify(name))
        path.write_bytes(whole)
    intact = not any(catalogue.verify(name) for name in catalogue.names())
    if not intact:
        raise CheckpointError("an entry is damaged though every bit was put back")
    return found
