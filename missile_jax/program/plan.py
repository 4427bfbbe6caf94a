"""A compiled program: the whole in one piece, and the same cut into segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from missile_jax.program.compile import Executable

# Segments have to be faster than the whole by more than two profiles of one thing differ.
_CLEARLY_LESS = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A piece of a program that is launched at once.

    Values between segments live in numbered slots; parameters are leaves of the model.

    executable: takes ``params`` then ``reads``, gives ``writes``.
    params: indices of parameter leaves.
    reads, writes: slots.
    drops: slots that nothing reads after this segment.
    duration_ns: measured when the plan was built; 0 if it was not.
    """

    executable: Executable
    params: tuple[int, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    drops: tuple[int, ...]
    duration_ns: int

    def run(self, leaves: Sequence[jax.Array | None], slots: list[Any]) -> list[jax.Array]:
        """Launches on `leaves` and updates `slots`. Returns what it wrote, maybe unready."""
        results = self.executable.call(
            *[leaves[i] for i in self.params], *[slots[i] for i in self.reads]
        )
        for slot, value in zip(self.writes, results, strict=True):
            slots[slot] = value
        for slot in self.drops:
            slots[slot] = None
        return results


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Plan:
    """How a model runs at one input shape.

    whole: the program in one piece.
    segments: the program cut to the quantum; one element, `whole`, where it was not cut.
    num_slots: values between segments; inputs take the first slots.
    outputs: slots of the result's leaves.
    out_tree: of the result.
    bit_identical: whether the segments gave the same bits as the whole on the example.
    max_relative_error: largest difference to the whole, relative to the largest value of the leaf.
    not_cut: why the program was left whole, or "".
    steady: whether it takes about as long for any values.
    keep: objects that the key of equal plans names by identity.
    is_faster_cut: whether the segments, one after the other, took clearly less time than the whole.
    least_ns: what the shorter of the two ways took; 0 if it was not measured.
    """

    whole: Segment
    segments: tuple[Segment, ...]
    num_slots: int
    outputs: tuple[int, ...]
    out_tree: Any
    bit_identical: bool
    max_relative_error: float
    not_cut: str
    steady: bool = True
    keep: tuple[Any, ...] = ()
    is_faster_cut: bool = field(init=False)
    least_ns: int = field(init=False)

    def __post_init__(self) -> None:
        cut_ns = sum(segment.duration_ns for segment in self.segments)
        faster = 0 < cut_ns < _CLEARLY_LESS * self.whole.duration_ns
        object.__setattr__(self, "is_faster_cut", faster)
        object.__setattr__(self, "least_ns", min(self.whole.duration_ns, cut_ns))

    @property
    def temp_bytes(self) -> int:
        """The largest temporary memory of a launch."""
        return max(s.executable.temp_bytes for s in (self.whole, *self.segments))

    @property
    def launch_bytes(self) -> int:
        """The most that a launch allocates: temporary memory and results."""
        pieces = [s.executable for s in (self.whole, *self.segments)]
        return max(piece.temp_bytes + piece.output_bytes for piece in pieces)

    def snapshot(self) -> dict[str, Any]:
        """What is to be known of it, as plain values."""
        return {
            "segments": len(self.segments),
            "whole_ms": self.whole.duration_ns / 1e6,
            "longest_segment_ms": max(s.duration_ns for s in self.segments) / 1e6,
            "bit_identical": self.bit_identical,
            "max_relative_error": self.max_relative_error,
            "not_cut": self.not_cut or None,
            "temp_bytes": self.temp_bytes,
        }

    def start(self, inputs: Sequence[Any]) -> list[Any]:
        """Slots with the input leaves filled in."""
        slots: list[Any] = [None] * self.num_slots
        slots[: len(inputs)] = inputs
        return slots

    def results(self, slots: Sequence[Any]) -> list[Any]:
        """The result's leaves."""
        return [slots[slot] for slot in self.outputs]

    def run(
        self, leaves: Sequence[Any], inputs: Sequence[Any], *, whole: bool = False
    ) -> list[Any]:
        """Runs all of it, for tests and profiles. Returns the result's leaves."""
        slots = self.start(inputs)
        for segment in (self.whole,) if whole else self.segments:
            segment.run(leaves, slots)
        return self.results(slots)
