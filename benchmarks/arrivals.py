"""When requests come: drawn from a seeded law, or read from a trace."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import numpy as np


def poisson(rate_per_s: float, count: int, seed: int) -> np.ndarray:
    """Offsets [count] in seconds of a Poisson process."""
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.exponential(1.0 / rate_per_s, count))


def from_trace(path: Path, rate_per_s: float, count: int, seed: int) -> np.ndarray:
    """Offsets [count] in seconds from a trace file, stretched to `rate_per_s` on average.

    A trace with fewer arrivals is repeated. Formats, told apart by their content: DISB JSON (all
    its traces merged), Azure Functions 2019 (invocations a minute, all functions merged; arrivals
    inside a minute are drawn uniformly), Azure Functions 2021 (`end_timestamp - duration`), Azure
    LLM 2023 (`TIMESTAMP`), and plain lines of millisecond offsets.

    Raises ValueError for any other content.
    """
    offsets = np.sort(np.concatenate(streams_from(path, np.random.default_rng(seed))))
    if len(offsets) < 2 or offsets[-1] <= offsets[0]:
        raise ValueError(f"{path}: a trace needs two arrivals at different times")
    gaps = np.diff(offsets, prepend=offsets[0])
    gaps[0] = gaps[1:].mean()
    repeated = np.resize(gaps, count)
    return np.cumsum(repeated) / (rate_per_s * repeated.mean())


def streams_from(path: Path, rng: np.random.Generator) -> list[np.ndarray]:
    """Offsets in seconds from a trace file, one array for each function or task that it tells
    apart. Formats and errors: see `from_trace`."""
    text = path.read_text()
    if text.lstrip().startswith("{"):
        tasks = json.loads(text).get("tasks", [])
        traces = [t["load"]["trace"] for t in tasks if "trace" in t.get("load", {})]
        if not traces:
            raise ValueError(f"{path}: JSON without tasks[].load.trace, the form of a DISB trace")
        return [np.array(trace, float) / 1e3 for trace in traces]
    rows = list(csv.reader(text.splitlines()))
    header = rows[0]
    if header[:3] == ["HashOwner", "HashApp", "HashFunction"]:
        counts = np.array([row[4:] for row in rows[1:]], dtype=int)
        return [spread(row, rng) for row in counts]
    if "end_timestamp" in header and "duration" in header:
        end, duration = header.index("end_timestamp"), header.index("duration")
        apps = defaultdict(list)
        for row in rows[1:]:
            apps[tuple(row[:2])].append(float(row[end]) - float(row[duration]))
        return [np.array(starts) for starts in apps.values()]
    if header[0] == "TIMESTAMP":
        # Seven digits of a second: one more than the standard library reads.
        stamps = [datetime.fromisoformat(row[0][:26]) for row in rows[1:]]
        return [np.array([stamp.timestamp() for stamp in stamps])]
    try:
        return [np.array([float(row[0]) for row in rows if row]) / 1e3]
    except ValueError:
        raise ValueError(
            f"{path}: unknown trace; allowed: DISB JSON, Azure Functions 2019 or 2021, "
            "Azure LLM 2023, or a line a millisecond offset"
        ) from None


def spread(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Offsets in seconds of so many calls in each minute, drawn uniformly inside of it."""
    minutes = np.repeat(np.arange(len(counts)), counts)
    return 60.0 * (minutes + rng.random(len(minutes)))
