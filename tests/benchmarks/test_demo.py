"""benchmarks.demo: what it writes of what it measured."""

import io
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent
from rich.console import Console

from benchmarks import demo
from missile_jax import LaunchRecord

MS = 1_000_000
S = 1000 * MS


def whole(model: str, start_ms: int, *, latency: bool = False) -> LaunchRecord:
    return LaunchRecord(model, latency, -1, 1, start_ms * MS, (start_ms + 5) * MS)


def segments(model: str, start_ms: int) -> list[LaunchRecord]:
    starts = (start_ms * MS, (start_ms + 20) * MS)
    return [LaunchRecord(model, False, k, 1, at, at + 5 * MS) for k, at in enumerate(starts)]


def named(body: bytes) -> dict[tuple[str, str], list[str]]:
    """(process, track) -> names of its slices, all of which are ended."""
    trace = Trace()
    trace.ParseFromString(body)
    processes, tracks, depth = {}, {}, defaultdict(int)
    names = defaultdict(list)
    for packet in trace.packet:
        track, event = packet.track_descriptor, packet.track_event
        if packet.HasField("track_descriptor") and track.HasField("process"):
            processes[track.uuid] = track.process.process_name
        elif packet.HasField("track_descriptor"):
            tracks[track.uuid] = (processes[track.parent_uuid], track.name)
        elif event.type == TrackEvent.TYPE_SLICE_BEGIN:
            names[tracks[event.track_uuid]].append(event.name)
            depth[event.track_uuid] += 1
        else:
            depth[event.track_uuid] -= 1
    assert set(depth.values()) == {0}
    return names


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder, and what was printed."""
    scene = demo.Scene(answers=["coffee.png: espresso 0.99"])
    scene.latencies["LS alone"] = [np.full(4, 0.010)]
    scene.rates["BE alone"] = [{"resnet50-b4": 30.0, "minilm-b8": 10.0}]
    for k, policy in enumerate(demo.POLICIES):
        scene.latencies[policy] = [np.full(4, 0.010 * (k + 1)), np.full(4, 0.020 * (k + 1))]
        scene.rates[policy] = [
            {"resnet50-b4": 20.0, "minilm-b8": 4.0},
            {"resnet50-b4": 24.0, "minilm-b8": 6.0},
        ]
    records = {policy: [whole("resnet50-b4", 0)] for policy in demo.POLICIES}
    records["fifo"].append(LaunchRecord("minilm-b8", False, -1, 1, 4 * S, 5 * S))
    records[demo.SEGMENTED] = [
        *segments("resnet50-b4", 0),
        whole("squeezenet", 10, latency=True),
        *segments("minilm-b8", 7),
    ]
    out, shown = tmp_path_factory.mktemp("demo") / "new", io.StringIO()
    console = Console(file=shown, width=160)
    demo.write(out, scene, records, service_s=0.008, elapsed_s=61.0, seed=3, console=console)
    return out, shown.getvalue()


def test_the_report_has_a_row_for_each_way_and_how_long_it_took(written: tuple[Path, str]) -> None:
    report = json.loads((written[0] / "report.json").read_text())
    rows = {row["policy"]: row for row in report["rows"]}
    assert list(rows) == ["LS alone", "BE alone", *demo.POLICIES]
    assert "be_items_per_s" not in rows["LS alone"]
    assert "p99_ms" not in rows["BE alone"]
    assert rows["BE alone"]["be_items_per_s"] == 40.0
    missile = rows["missile"]
    assert missile["requests"] == 8
    assert (missile["p50_ms"], missile["p99_ms"]) == (pytest.approx(45.0), pytest.approx(60.0))
    assert missile["be_items_per_s"] == missile["be_items_per_s.resnet50-b4"] + 5.0 == 27.0
    summary = report["summary"]
    assert summary["elapsed_s"] == 61.0
    assert summary["p99_ms.missile"] == missile["p99_ms"]
    assert summary["be_items_per_s.BE_alone"] == 40.0
    assert report["seed"] == 3


def test_the_plot_is_a_picture(written: tuple[Path, str]) -> None:
    assert (written[0] / "latency.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_timeline_shows_segments_on_a_track_for_each_model(written: tuple[Path, str]) -> None:
    names = named((written[0] / "timeline.pftrace").read_bytes())
    assert {track: n for track, n in names.items() if track[0] == demo.SEGMENTED} == {
        (demo.SEGMENTED, "LS squeezenet"): ["whole"],
        (demo.SEGMENTED, "BE resnet50-b4"): ["segment 0", "segment 1"],
        (demo.SEGMENTED, "BE minilm-b8"): ["segment 0", "segment 1"],
    }


def test_the_timeline_has_the_first_seconds_of_each_policy(written: tuple[Path, str]) -> None:
    names = named((written[0] / "timeline.pftrace").read_bytes())
    assert [track for track in names if track[0] != demo.SEGMENTED] == [
        (policy, "BE resnet50-b4") for policy in demo.POLICIES
    ]


def test_the_table_and_the_answers_are_shown(written: tuple[Path, str]) -> None:
    shown = written[1]
    assert all(name in shown for name in ("LS alone", "BE alone", *demo.POLICIES))
    assert "coffee.png: espresso 0.99" in shown
    assert "61 s" in shown


def test_a_slow_machine_is_sent_fewer_requests_with_as_much_around_those_that_count() -> None:
    assert demo.requests(1000.0) == (demo.SENT, demo.COUNTED)
    sent, counted = demo.requests(10.0)
    assert sent == 60 == round(demo.TURN_S * 10)
    assert (counted.start, counted.stop) == (7, 49)
