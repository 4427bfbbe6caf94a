"""The one JSON form of all benchmarks, and tables of it."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

_STARTED_S = time.monotonic()
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "missile-jax")


@dataclass(slots=True)
class Report:
    """A benchmark's result.

    rows: one for each thing measured. summary: figures that others quote, flat, unit in the key.
    """

    benchmark: str
    seed: int
    simulated: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
            "seconds": round(time.monotonic() - _STARTED_S, 3),
            "seed": self.seed,
            "simulated": self.simulated,
            "machine": machine(),
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in _PACKAGES},
            "rows": self.rows,
            "summary": self.summary,
        }

    def write(self, path: Path) -> None:
        """Writes it at once: a reader sees the old file or the new one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".json")
        with os.fdopen(handle, "w") as file:
            json.dump(self.as_dict(), file, indent=1, default=_plain)
        os.chmod(name, 0o644)
        os.replace(name, path)

    def print(self, title: str, columns: Sequence[str], where: str = "") -> None:
        """A table of `columns` of the rows, or of those rows that have a `where`."""
        table = Table(title=title + (" (simulated)" if self.simulated else ""))
        for column in columns:
            table.add_column(column, justify="left" if column in _TEXT else "right")
        for row in (row for row in self.rows if not where or where in row):
            table.add_row(*(_cell(row.get(column)) for column in columns))
        Console().print(table)


_TEXT = ("policy", "mix", "model", "path", "what", "case", "system")


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    cpu = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "devices": [f"{d.platform}:{d.device_kind}" for d in jax.devices()],
    }


def percentiles(latencies_s: np.ndarray) -> dict[str, float]:
    """p50, p95 and p99 in ms."""
    p50, p95, p99 = np.percentile(latencies_s, (50, 95, 99)) * 1e3
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}


def p99_interval_ms(latencies_s: np.ndarray, seed: int, block: int = 20) -> tuple[float, float]:
    """95 % confidence interval of the p99 in ms, by `p99_samples_ms`."""
    low, high = np.percentile(p99_samples_ms(latencies_s, seed, block), (2.5, 97.5))
    return float(low), float(high)


def p99_samples_ms(latencies_s: np.ndarray, seed: int, block: int = 20) -> np.ndarray:
    """p99 [400] in ms of as many samples, from a bootstrap over runs of `block` requests.

    Blocks, because requests that queue behind each other are not independent.
    """
    rng = np.random.default_rng(seed)
    starts = np.arange(max(1, len(latencies_s) - block + 1))
    count = -(-len(latencies_s) // block)
    picks = rng.choice(starts, size=(400, count))
    samples = latencies_s[(picks[:, :, None] + np.arange(block)) % len(latencies_s)]
    return np.percentile(samples.reshape(400, -1), 99, axis=1) * 1e3


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} does not go into JSON")
