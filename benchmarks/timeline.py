"""Launches as a timeline that opens in Perfetto (ui.perfetto.dev) or chrome://tracing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from missile_jax import LaunchRecord


def write_timeline(path: Path, runs: Mapping[str, Iterable[LaunchRecord]]) -> int:
    """Writes one process a run and one track a model. Returns the number of launches."""
    events: list[dict] = []
    launches = 0
    for pid, (run, records) in enumerate(runs.items(), start=1):
        events.append({"ph": "M", "pid": pid, "name": "process_name", "args": {"name": run}})
        tracks: dict[str, int] = {}
        for record in records:
            if record.model not in tracks:
                # Latency-sensitive tracks on top.
                tid = len(tracks) + (1 if record.latency else 100)
                tracks[record.model] = tid
                name = f"{'LS' if record.latency else 'BE'} {record.model}"
                meta = {"ph": "M", "pid": pid, "tid": tid}
                events.append(meta | {"name": "thread_name", "args": {"name": name}})
                events.append(meta | {"name": "thread_sort_index", "args": {"sort_index": tid}})
            launches += 1
            events.append(
                {
                    "ph": "X",
                    "pid": pid,
                    "tid": tracks[record.model],
                    "name": "whole" if record.index < 0 else f"segment {record.index}",
                    "cat": "LS" if record.latency else "BE",
                    "ts": record.started_ns / 1e3,
                    "dur": (record.ended_ns - record.started_ns) / 1e3,
                    "args": {"model": record.model, "rows": record.rows},
                }
            )
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))
    return launches
