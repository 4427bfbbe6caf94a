"""Whether the memory of this process grows while something runs."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import psutil

# Of the time, the first part: buffers and caches fill then.
WARM_UP = 0.5


def watch(seconds: float) -> dict[str, float]:
    """Waits so long, and tells how the resident set grew after the warm-up: see `growth`."""
    process = psutil.Process()
    samples = []
    start = time.monotonic()
    while (now := time.monotonic() - start) < seconds:
        time.sleep(min(0.25, seconds / 20))
        samples.append((now, process.memory_info().rss / 2**20))
    return growth(samples, seconds)


def growth(samples: Sequence[tuple[float, float]], seconds: float) -> dict[str, float]:
    """Of (second, MB) of a run of `seconds`, those after the warm-up: MB then and at the end, and
    the slope of a line through them in MB a minute."""
    at, rss = np.array([(now, mb) for now, mb in samples if now >= WARM_UP * seconds]).T
    some = max(1, len(rss) // 10)
    return {
        "rss_warm_mb": float(rss[:some].mean()),
        "rss_end_mb": float(rss[-some:].mean()),
        "rss_growth_mb_per_minute": float(np.polyfit(at, rss, 1)[0]) * 60,
    }
