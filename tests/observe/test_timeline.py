"""Timelines as Perfetto reads them, and that they are recorded only while asked for."""

import threading

import pytest
from observed import X, beside
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from missile_jax import LaunchRecord
from missile_jax.memory.memory import CopyRecord
from missile_jax.observe.timeline import perfetto_trace
from missile_jax.options import ObserveOptions


def read(body: bytes):
    """(process, track, slice, start_ns, end_ns) of every slice; asserts that none overlaps one of
    its track and that all are ended."""
    trace = Trace()
    trace.ParseFromString(body)
    tracks, processes, open_, slices = {}, {}, {}, []
    for packet in trace.packet:
        if packet.HasField("track_descriptor"):
            one = packet.track_descriptor
            if one.HasField("process"):
                processes[one.uuid] = one.process.process_name
            else:
                tracks[one.uuid] = (processes[one.parent_uuid], one.name)
        elif packet.track_event.type == TrackEvent.TYPE_SLICE_BEGIN:
            assert packet.track_event.track_uuid not in open_
            open_[packet.track_event.track_uuid] = (packet.track_event.name, packet.timestamp)
        else:
            name, start = open_.pop(packet.track_event.track_uuid)
            slices.append((*tracks[packet.track_event.track_uuid], name, start, packet.timestamp))
    assert not open_
    return slices


def test_each_model_has_a_track_for_launches_and_one_for_waits():
    records = [
        LaunchRecord("pile", False, 0, 4, 1_000, 6_000, 500),
        LaunchRecord("quick", True, -1, 1, 6_000, 9_000),
        LaunchRecord("pile", False, 1, 4, 9_000, 14_000, 500),
        CopyRecord("pile", 2, 4096, 100, 200, 900),
        CopyRecord("pile", 3, 8192, 100, 900, 1_600, groups=2),
    ]
    assert read(perfetto_trace({"one": records})) == [
        ("one", "LS quick", "whole", 6_000, 9_000),
        ("one", "BE pile", "segment 0", 1_000, 6_000),
        ("one", "BE pile", "segment 1", 9_000, 14_000),
        ("one", "BE pile waits", "queue", 500, 1_000),
        ("one", "link pile", "group 2", 200, 900),
        ("one", "link pile", "groups 3 to 4", 900, 1_600),
    ]


def test_launches_that_overlap_lie_on_tracks_of_their_own():
    records = [LaunchRecord("m", False, -1, 1, start, start + 10) for start in (0, 5, 10, 12)]
    assert len(read(perfetto_trace({"one": records}))) == 4


def test_a_timeline_holds_what_ran_while_it_was_recorded(managed, serve):
    client = serve(managed)
    managed.infer("slow", X)
    managed.evict("slow")
    done = threading.Event()

    def work():
        while not done.is_set():
            managed.infer("quick", X)
            managed.infer("slow", X)
            managed.evict("slow")

    worker = threading.Thread(target=work)
    worker.start()
    status, headers, body = client.ask("GET", "/v2/timeline?seconds=0.3")
    done.set()
    worker.join()
    assert status == 200
    assert "missile.pftrace" in headers["content-disposition"]
    slices = read(body)
    tracks = {track for _, track, *_ in slices}
    assert {"LS quick", "BE slow", "link slow"} <= tracks
    starts = [start for *_, start, _ in slices]
    assert max(starts) - min(starts) < 60e9
    assert not managed._mux.observers
    assert not managed._memory.observers


def test_two_at_a_time(managed, serve):
    client = serve(managed)
    others = [beside(client), beside(client)]
    for other in others:
        other.send("GET", "/v2/timeline?seconds=60")
    while client.ask("GET", "/v2/timeline?seconds=0.001")[0] != 429:
        pass
    for other in others:
        other.connection.close()
    # Those who leave make room.
    while client.ask("GET", "/v2/timeline?seconds=0.001")[0] != 200:
        pass


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "61", "x", ""])
def test_seconds_that_are_none(managed, serve, seconds):
    client = serve(managed, observe=ObserveOptions(timeline_s=60))
    status, text = client.error("GET", f"/v2/timeline?seconds={seconds}")
    assert status == 400
    assert "up to 60" in text
