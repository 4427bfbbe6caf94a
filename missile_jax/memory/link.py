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
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from missile_jax import _native

# Larger than the caches, so that it is memory that is measured.
_SIZE_BYTES = 64 << 20
_REPEATS = 7
_CHUNK_BYTES = 1 << 20
# A second thread takes a core from what computes, so it has to be worth it.
_WORTH_A_THREAD = 1.03


@dataclass(frozen=True, slots=True)
class BestCopy:
    """The fastest way to copy: Link's arguments, and the rate measured for them."""

    threads: int
    non_temporal: bool
    bytes_per_s: float


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
    """Measured once a machine, some 0.3 s, and remembered in `cache_dir`.

    Warns where it can not be written: then it is measured again the next time.
    """
    path = cache_dir / f"copy-{_machine_digest()}.json"
    known = _read(path)
    if known is not None:
        return known
    best = _choose(_native.measure_copies(_SIZE_BYTES, _REPEATS, _CHUNK_BYTES, min(2, _cores())))
    try:
        _write(path, best)
    except OSError as error:
        warnings.warn(f"the best copy is not remembered: {error}", stacklevel=2)
    return best


def _choose(rates: dict[tuple[int, bool], float]) -> BestCopy:
    """The fastest of (threads, non_temporal), with one thread unless more are worth it."""
    ways = [BestCopy(*way, rate) for way, rate in rates.items()]
    one = max((way for way in ways if way.threads == 1), key=lambda way: way.bytes_per_s)
    best = max(ways, key=lambda way: way.bytes_per_s)
    return best if best.bytes_per_s > _WORTH_A_THREAD * one.bytes_per_s else one


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
            int(known["threads"]), bool(known["non_temporal"]), float(known["bytes_per_s"])
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(path: Path, best: BestCopy) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".json")
    with os.fdopen(handle, "w") as file:
        json.dump(asdict(best), file)
    os.replace(name, path)
