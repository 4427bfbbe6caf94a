"""A link that copies the way this machine copies fastest.

link = make_link(cache_dir)
tenant = link.flow("search", weight=2)
tenant.copy(device_block, 0, host_block, 0, size_bytes).wait()
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import threading
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from missile_jax import _native

# Larger than the caches, so that it is memory that is measured.
_SIZE_BYTES = 64 << 20
_REPEATS = 7
_CHUNK_BYTES = 1 << 20
# A second thread takes a core from what computes, so it has to be worth it.
_WORTH_A_THREAD = 1.03
# Sizes of copies to try for the elbow, and the part of the best rate that is reached there.
_GROUP_SIZES = tuple(1 << k for k in range(18, 24))
_AT_THE_ELBOW = 0.85


@dataclass(frozen=True, slots=True)
class BestCopy:
    """The fastest way to copy: Link's arguments, and the rate measured for them.

    elbow_bytes: the elbow of the transfer curve: a copy of this size costs little more a byte than
        a larger one.
    """

    threads: int
    non_temporal: bool
    bytes_per_s: float
    elbow_bytes: int


def make_link(
    cache_dir: Path,
    *,
    chunk_bytes: int = _CHUNK_BYTES,
    best_effort_share: float = 0.1,
    emulate_bytes_per_s: float = 0.0,
    emulate_latency_ns: int = 0,
    history: int = 0,
) -> _native.Link:
    """A link with `best_copy(cache_dir)`. Closing it fails what still waits.

    emulate_bytes_per_s, emulate_latency_ns: the bus to play, 0 for none. history: chunks that the
    link remembers.
    """
    best = best_copy(cache_dir)
    return _native.Link(
        chunk_bytes=chunk_bytes,
        threads=best.threads,
        non_temporal=best.non_temporal,
        best_effort_share=best_effort_share,
        emulate_bytes_per_s=emulate_bytes_per_s,
        emulate_latency_ns=emulate_latency_ns,
        history=history,
    )


def best_copy(cache_dir: Path) -> BestCopy:
    """Measured once a machine, some 0.5 s, and remembered in `cache_dir`.

    Warns where it can not be written: then it is measured again the next time.
    """
    path = cache_dir / f"copy-{_machine_digest()}.json"
    known = _read(path)
    if known is not None:
        return known
    best = _measure()
    try:
        _write(path, best)
    except OSError as error:
        warnings.warn(f"the best copy is not remembered: {error}", stacklevel=2)
    return best


def _measure() -> BestCopy:
    rates = _native.measure_copies(_SIZE_BYTES, _REPEATS, _CHUNK_BYTES, min(2, _cores()))
    way = _choose(rates)
    return BestCopy(*way, rates[way], _elbow(_transfer_curve(*way)))


def _choose(rates: dict[tuple[int, bool], float]) -> tuple[int, bool]:
    """The fastest of (threads, non_temporal), with one thread unless more are worth it."""
    one = max((way for way in rates if way[0] == 1), key=rates.__getitem__)
    best = max(rates, key=rates.__getitem__)
    return best if rates[best] > _WORTH_A_THREAD * rates[one] else one


def _transfer_curve(threads: int, non_temporal: bool) -> dict[int, float]:
    """The rate in bytes/s of a swap-in whose copies have each of the sizes to try."""
    source = np.ones(_SIZE_BYTES, np.uint8)
    arena = _native.Arena(_SIZE_BYTES)
    block = arena.allocate(_SIZE_BYTES)
    assert block is not None  # It has the whole arena.
    link = _native.Link(threads=threads, non_temporal=non_temporal, chunk_bytes=_CHUNK_BYTES)
    flow = link.flow("curve")
    rates: dict[int, list[float]] = {size: [] for size in _GROUP_SIZES}
    ended = threading.Semaphore(0)
    for size in _GROUP_SIZES * _REPEATS:
        starts = range(0, _SIZE_BYTES // 2, size)
        begin = time.perf_counter()
        for start in starts:
            place = (block.address + start, block)
            flow.copy(place, 0, source, start, size, lambda _: ended.release())
        for _ in starts:
            ended.acquire()
        rates[size].append(len(starts) * size / (time.perf_counter() - begin))
    link.close()
    return {size: float(np.median(found)) for size, found in rates.items()}


def _elbow(rates: dict[int, float]) -> int:
    """The smallest size that is copied at nearly the best rate."""
    enough = _AT_THE_ELBOW * max(rates.values())
    return min(size for size, rate in rates.items() if rate >= enough)


def _machine_digest() -> str:
    parts = (platform.machine(), _cpu_model(), str(_cores()), _native.streaming_stores())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), "")


def _read(path: Path) -> BestCopy | None:
    try:
        known = json.loads(path.read_text())
        return BestCopy(
            int(known["threads"]),
            bool(known["non_temporal"]),
            float(known["bytes_per_s"]),
            int(known["elbow_bytes"]),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(path: Path, best: BestCopy) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".json")
    with os.fdopen(handle, "w") as file:
        json.dump(asdict(best), file)
    os.replace(name, path)
