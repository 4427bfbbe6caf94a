"""Whether the memory of this process grows while something runs."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence

import numpy as np
import psutil

# Of the time, the first part: buffers and caches fill then.
WARM_UP = 0.5
# Of what is left, parts of which each tells how little was allocated at any time.
_PARTS = 10


class _Mallinfo2(ctypes.Structure):
    """As in malloc.h of glibc, 2.33 or newer: all in bytes or counts."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks "
        "keepcost".split()
    ]


def allocated_mb() -> float:
    """What is allocated on the C heap, without what was freed and is kept for later."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return (info.uordblks + info.hblkhd) / 2**20


def watch(seconds: float) -> dict[str, float]:
    """Waits so long, and tells how memory grew after the warm-up: see `growth`."""
    process = psutil.Process()
    samples = []
    start = time.monotonic()
    while (now := time.monotonic() - start) < seconds:
        time.sleep(min(0.1, seconds / 40))
        samples.append((now, process.memory_info().rss / 2**20, allocated_mb()))
    return growth(samples, seconds)


def growth(samples: Sequence[tuple[float, float, float]], seconds: float) -> dict[str, float]:
    """Of (second, resident MB, allocated MB) of a run of `seconds`, those after the warm-up.

    The resident set then and at the end, and the slope of lines through it and through the least
    that was allocated in each of ten parts, in MB a minute.
    """
    counted = [sample for sample in samples if sample[0] >= WARM_UP * seconds]
    at, rss, allocated = np.array(counted).T
    some = max(1, len(rss) // 10)
    parts = np.array_split(np.arange(len(at)), _PARTS)
    least = [part[allocated[part].argmin()] for part in parts]
    return {
        "rss_warm_mb": float(rss[:some].mean()),
        "rss_end_mb": float(rss[-some:].mean()),
        "rss_growth_mb_per_minute": _slope(at, rss) * 60,
        "allocated_growth_mb_per_minute": _slope(at[least], allocated[least]) * 60,
    }


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.polyfit(x, y, 1)[0])
