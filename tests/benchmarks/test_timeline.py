"""benchmarks.timeline: launches in the form that Perfetto reads."""

import json
from pathlib import Path

from benchmarks.timeline import write_timeline
from missile_jax import LaunchRecord


def test_each_model_has_a_track_of_its_own(tmp_path: Path) -> None:
    records = [
        LaunchRecord("pile", False, 0, 4, 1_000, 6_000),
        LaunchRecord("quick", True, -1, 1, 6_000, 9_000),
        LaunchRecord("pile", False, 1, 4, 9_000, 14_000),
    ]
    assert write_timeline(tmp_path / "t.json", {"missile": records}) == 3
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert sorted(tracks.values()) == ["BE pile", "LS quick"]
    launches = [e for e in events if e["ph"] == "X"]
    assert [(tracks[e["tid"]], e["name"], e["ts"], e["dur"]) for e in launches] == [
        ("BE pile", "segment 0", 1.0, 5.0),
        ("LS quick", "whole", 6.0, 3.0),
        ("BE pile", "segment 1", 9.0, 5.0),
    ]
