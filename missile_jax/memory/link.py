"""A link that copies the way this machine copies fastest.

link = make_link(cache_dir)
tenant = link.flow("search", weight=2)
tenant.copy(device_block, 0, host_block, 0, size_bytes).wait()
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from missile_jax import _native

# Larger than the caches, so that it is memory that is measured.
_SIZE_BYTES = 64 << 20
_REPEATS = 7
# A slow bus is tried less often.
_LONGEST_CURVE_S = 0.5
_CHUNK_BYTES = 1 << 20
# Copies leave processors to what computes: XLA's threads wait for each other, so that one that is
# held up holds up all. Beside threads that are no nicer a launch takes twice as long.
_NICE = 10
# A second thread takes a core from what computes, so it has to be worth it.
_WORTH_A_THREAD = 1.03
# Sizes of copies to try for the elbow, how many bytes each time, and the part of the best rate that
# is reached there.
_GROUP_SIZES = tuple(1 << k for k in range(18, 24))
_TURN_BYTES = 32 << 20
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
        nice=_NICE,
    )


def processor_share(best: BestCopy, bytes_per_s: float) -> float:
    """What copies at this rate take of the processors that compute, between 0 and 1."""
    return min(1.0, best.threads / _cores() * bytes_per_s / best.bytes_per_s)


def best_copy(cache_dir: Path) -> BestCopy:
    """The CPU's own, measured in some 0.5 s; see `remembered`."""
    return remembered(cache_dir, (), _measure)


def remembered(
    cache_dir: Path, names: Sequence[str], measure: Callable[[], BestCopy], *, keep: bool = True
) -> BestCopy:
    """What `measure` finds, asked once for this machine and what `names` tell of its parts.

    Kept in `cache_dir`, unless not to `keep` is asked for. Warns where it can not be written: then
    it is measured again the next time.
    """
    path = cache_dir / f"copy-{_digest(names)}.json"
    known = _read(path)
    if known is not None:
        return known
    best = measure()
    try:
        if keep:
            _write(path, best)
    except OSError as error:
        warnings.warn(f"the best copy is not remembered: {error}", stacklevel=2)
    return best


def _measure() -> BestCopy:
    rates = _native.measure_copies(_SIZE_BYTES, _REPEATS, _CHUNK_BYTES, min(2, _cores()))
    way = _choose(rates)
    return BestCopy(*way, rates[way], elbow(_curve(*way)))


def _choose(rates: dict[tuple[int, bool], float]) -> tuple[int, bool]:
    """The fastest of (threads, non_temporal), with one thread unless more are worth it."""
    one = max((way for way in rates if way[0] == 1), key=rates.__getitem__)
    best = max(rates, key=rates.__getitem__)
    return best if rates[best] > _WORTH_A_THREAD * rates[one] else one


def _curve(threads: int, non_temporal: bool) -> dict[int, float]:
    source = np.ones(_TURN_BYTES, np.uint8)
    block = _native.Arena(_TURN_BYTES).allocate(_TURN_BYTES)
    assert block is not None  # It has the whole arena.
    link = _native.Link(threads=threads, non_temporal=non_temporal, chunk_bytes=_CHUNK_BYTES)
    return transfer_curve(link, block, source, _GROUP_SIZES)


def transfer_curve(
    link: _native.Link, block: _native.Block, source: np.ndarray, sizes: Sequence[int]
) -> dict[int, float]:
    """The rate in bytes/s of a swap-in whose copies have each of the sizes; closes the link.

    source: [n] uint8, copied in each turn. Each size divides it and the block. Raises RuntimeError
    for a copy that failed.
    """
    flow = link.flow("curve")
    rates: dict[int, list[float]] = {size: [] for size in sizes}
    ended: SimpleQueue[_native.Copy] = SimpleQueue()
    stop = time.perf_counter() + _LONGEST_CURVE_S
    try:
        for _ in range(_REPEATS):
            for size, found in rates.items():
                starts = range(0, len(source), size)
                begin = time.perf_counter()
                for start in starts:
                    place = (block.address + start % block.size_bytes, block)
                    flow.copy(place, 0, source, start, size, ended.put)
                errors = [ended.get().error for _ in starts]
                found.append(len(source) / (time.perf_counter() - begin))
                if any(errors):
                    raise RuntimeError(f"the link's rate: {next(filter(None, errors))}")
            if time.perf_counter() > stop:
                break
    finally:
        link.close()
    return {size: float(np.median(found)) for size, found in rates.items()}


def elbow(rates: dict[int, float]) -> int:
    """The smallest size that is copied at nearly the best rate."""
    enough = _AT_THE_ELBOW * max(rates.values())
    return min(size for size, rate in rates.items() if rate >= enough)


def _digest(names: Sequence[str]) -> str:
    machine = (platform.machine(), _cpu_model(), str(_cores()), _native.streaming_stores())
    parts = (*machine, *names)
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
        best = BestCopy(
            int(known["threads"]),
            bool(known["non_temporal"]),
            float(known["bytes_per_s"]),
            int(known["elbow_bytes"]),
        )
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None
    possible = best.threads > 0 and 0 < best.bytes_per_s < math.inf and best.elbow_bytes > 0
    return best if possible else None


def _write(path: Path, best: BestCopy) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".json")
    with os.fdopen(handle, "w") as file:
        json.dump(asdict(best), file)
    os.replace(name, path)
