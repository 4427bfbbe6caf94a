"""What a policy sees and what it may ask for: values only.

Named tuples, since they are made on every step and a frozen dataclass takes longer to make.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from missile_jax.schedule.slo import Urgency


class ModelView(NamedTuple):
    """A model that has something to run.

    latency: True for a latency-sensitive (LS) model, False for a best-effort (BE) one.
    queued: requests that wait for a job.
    paused: jobs between two segments, ready to go on.
    in_flight: launches of this model on the device.
    arrival_ns: of its oldest waiting request, or of its paused job.
    urgency: of the request that is next: by its own deadline, the model's SLO, and how the model
        has kept to that.
    vruntime_ns: device time it has had, divided by its weight.
    piece_ns: device time of its next piece, as measured; 0 if it was not.
    ready: whether the parameters of its next piece are on the device.
    """

    name: str
    latency: bool
    queued: int
    paused: int
    in_flight: int
    arrival_ns: int
    urgency: Urgency
    vruntime_ns: float
    piece_ns: int = 0
    ready: bool = True

    @property
    def launchable(self) -> bool:
        return self.ready and (self.queued > 0 or self.paused > 0)


class View(NamedTuple):
    """A snapshot of the engine.

    models: those with something waiting, paused or in flight.
    latency_pieces_ns: of each LS piece on the device, what its `piece_ns` was.
    best_effort_in_flight: BE pieces on the device.
    last_latency_ns: when the latest LS request arrived or finished; far in the past if none did.
    best_effort_share: of the recent device time, what BE had; 1.0 when LS had none.
    yields: a BE piece in flight leaves the device's processors to LS at once; see
        `program.yielding`.
    """

    now_ns: int
    models: tuple[ModelView, ...]
    latency_pieces_ns: tuple[int, ...]
    best_effort_in_flight: int
    last_latency_ns: int
    best_effort_share: float
    yields: bool = False

    @property
    def latency_in_flight(self) -> int:
        """LS pieces on the device."""
        return len(self.latency_pieces_ns)


class Launch(NamedTuple):
    """Run the next piece of a model: of its paused job if it has one, else of a new job.

    whole: run an uncut job in one piece; a job that is under way goes on in segments, and so does
        one of a model that is still on its way to the device, or is faster that way.
    """

    model: str
    whole: bool


class Policy(Protocol):
    """Decides what to launch now. A pure function: all it knows is in the view.

    It is asked when a request arrives and when a piece ends, so it has to launch something where
    nothing is in flight and anything is launchable.

    To add one: write a frozen dataclass with `name`, `overlaps`, `yields`, `abreast` and `decide`,
    and list it in `schedule/policies/__init__.py`.
    """

    @property
    def name(self) -> str: ...

    @property
    def overlaps(self) -> bool:
        """Whether it may launch a piece while another is in flight: spatial sharing."""
        ...

    def abreast(self, latency: bool) -> int | None:
        """How many jobs of one model of this class may run at a time, so that a queue's work is a
        wait; None if that is not known."""
        ...

    @property
    def yields(self) -> bool:
        """Whether BE pieces are to run on threads that yield, where the device has such."""
        ...

    def decide(self, view: View) -> Sequence[Launch]: ...
