"""Launches and copies as a Perfetto trace, which opens in ui.perfetto.dev."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    TracePacket,
    TrackDescriptor,
    TrackEvent,
)
from perfetto.trace_builder.proto_builder import TraceProtoBuilder

from missile_jax.engine.multiplexer import LaunchRecord
from missile_jax.errors import QueueFullError
from missile_jax.memory.memory import CopyRecord
from missile_jax.runtime import Runtime

Record = LaunchRecord | CopyRecord

# Of each kind; at the limit the oldest go.
MAX_RECORDS = 50_000
MAX_AT_ONCE = 2
_SEQUENCE = 1


class Slice(NamedTuple):
    """Something with a name that took from `start_ns` to `end_ns`, on a track of its kind."""

    track: str
    name: str
    start_ns: int
    end_ns: int
    values: Mapping[str, int]


def perfetto_trace(runs: Mapping[str, Iterable[Record]]) -> bytes:
    """A trace with one process a run; in it a track a model, one for its waits, one for its copies.

    Latency-sensitive models come first. What overlaps on a track gets a further one.
    """
    trace = _Trace()
    for run, records in runs.items():
        by_track: dict[str, list[Slice]] = defaultdict(list)
        for one in (s for record in records for s in _slices(record)):
            by_track[one.track].append(one)
        process = trace.process(run)
        for rank, track in enumerate(sorted(by_track, key=_rank)):
            for lane in _lanes(by_track[track]):
                trace.track(process, rank, track, lane)
    return trace.serialize()


class Timelines:
    """Records a runtime for some seconds, as often as `MAX_AT_ONCE` at a time."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._running = 0

    async def record(self, seconds: float) -> bytes:
        """The trace of the next `seconds`; of the last of them where they hold too much.

        Raises QueueFullError where enough of them are being recorded.
        """
        if self._running >= MAX_AT_ONCE:
            raise QueueFullError(
                f"{self._running} timelines are being recorded, which is the limit"
            )
        launches: deque[Record] = deque(maxlen=MAX_RECORDS)
        copies: deque[Record] = deque(maxlen=MAX_RECORDS)
        self._running += 1
        try:
            with self._runtime.observed(launches.append, copies.append):
                await asyncio.sleep(seconds)
            return await asyncio.to_thread(perfetto_trace, {"missile": [*launches, *copies]})
        finally:
            self._running -= 1


def _slices(record: Record) -> Iterator[Slice]:
    if isinstance(record, CopyRecord):
        last = record.group + record.groups - 1
        name = f"group {last}" if record.groups == 1 else f"groups {record.group} to {last}"
        values = {"bytes": record.size_bytes}
        yield Slice(f"link {record.model}", name, record.started_ns, record.ended_ns, values)
        return
    kind = "LS" if record.latency else "BE"
    if record.index <= 0 and 0 < record.arrival_ns < record.started_ns:
        waits = f"{kind} {record.model} waits"
        yield Slice(waits, "queue", record.arrival_ns, record.started_ns, {"rows": record.rows})
    name = "whole" if record.index < 0 else f"segment {record.index}"
    values = {"rows": record.rows}
    yield Slice(f"{kind} {record.model}", name, record.started_ns, record.ended_ns, values)


def _rank(track: str) -> tuple[int, str]:
    return ("LS", "BE", "link").index(track.partition(" ")[0]), track


def _lanes(slices: Iterable[Slice]) -> list[list[Slice]]:
    """In as few rows as it takes for none to overlap another of its row."""
    lanes: list[list[Slice]] = []
    for one in sorted(slices, key=lambda s: (s.start_ns, s.end_ns)):
        free = next((lane for lane in lanes if lane[-1].end_ns <= one.start_ns), None)
        if free is None:
            lanes.append([one])
        else:
            free.append(one)
    return lanes


class _Trace:
    """Packets of one trace, each track with a number of its own."""

    def __init__(self) -> None:
        self._builder = TraceProtoBuilder()
        self._tracks = 0

    def process(self, name: str) -> int:
        descriptor = self._descriptor()
        descriptor.process.pid = descriptor.uuid
        descriptor.process.process_name = name
        descriptor.child_ordering = TrackDescriptor.EXPLICIT
        return descriptor.uuid

    def track(self, process: int, rank: int, name: str, slices: Sequence[Slice]) -> None:
        descriptor = self._descriptor()
        descriptor.parent_uuid = process
        descriptor.name = name
        descriptor.sibling_order_rank = rank
        for one in slices:
            event = self._event(one.start_ns, descriptor.uuid, TrackEvent.TYPE_SLICE_BEGIN)
            event.name = one.name
            for key, value in one.values.items():
                note = event.debug_annotations.add()
                note.name, note.int_value = key, value
            self._event(one.end_ns, descriptor.uuid, TrackEvent.TYPE_SLICE_END)

    def serialize(self) -> bytes:
        return self._builder.serialize()

    def _descriptor(self) -> TrackDescriptor:
        self._tracks += 1
        descriptor = self._builder.add_packet().track_descriptor
        descriptor.uuid = self._tracks
        return descriptor

    def _event(self, timestamp_ns: int, track: int, kind: TrackEvent.Type) -> TrackEvent:
        packet: TracePacket = self._builder.add_packet()
        packet.timestamp = timestamp_ns
        packet.trusted_packet_sequence_id = _SEQUENCE
        packet.track_event.track_uuid = track
        packet.track_event.type = kind
        return packet.track_event
