"""Models of made-up segments on a simulated device, and the schedule that comes of them."""

from collections import Counter
from dataclasses import dataclass, field

from missile_jax import LaunchRecord, ModelInfo, Priority
from missile_jax.engine.clock import VirtualClock
from missile_jax.engine.multiplexer import Multiplexer
from missile_jax.engine.request import NEVER_NS, Request, RequestFuture
from missile_jax.engine.simulated import SimulatedDevice
from missile_jax.engine.table import Served
from missile_jax.memory.parameters import Fixed
from missile_jax.program.plan import Plan, Segment
from missile_jax.program.program import Program
from missile_jax.schedule.policies import Missile
from missile_jax.schedule.queue import RequestQueue

MS = 1_000_000


def made_up(
    name, segments_ms, *, latency=False, buckets=(1,), slo=None, batched=True, tenant="default"
):
    """A program that takes these times and computes nothing."""

    def segment(ms):
        return Segment(None, (), (), (), (), round(ms * MS))

    whole, segments = segment(sum(segments_ms)), tuple(map(segment, segments_ms))
    plan = Plan(whole, segments, 0, (), None, True, 0.0, "")
    priority = Priority.LATENCY if latency else Priority.BEST_EFFORT
    info = ModelInfo(name, priority, tenant, slo, tuple(buckets), None, (), (), 0)
    return Program(info, (), {(b, 0): plan for b in buckets}, None, None, (), (), batched)


@dataclass
class Simulation:
    """A simulated device with an engine, and all that was launched on it."""

    policy: object = field(default_factory=Missile)
    slowdown: float = 1.0

    def __post_init__(self):
        self.clock = VirtualClock()
        self.device = SimulatedDevice(self.clock, self.slowdown)
        self.records: list[LaunchRecord] = []
        self.mux = Multiplexer(self.device, self.policy, self.clock, self.records.append)

    def serve(
        self,
        name,
        segments_ms,
        *,
        weight=1.0,
        limit=10_000,
        launch_bytes=0,
        replace=False,
        **options,
    ):
        program = made_up(name, segments_ms, **options)
        served = Served(program, Fixed(()), weight, RequestQueue(limit), launch_bytes)
        (self.mux.replace if replace else self.mux.add)(served)
        return served

    def submit(self, name, *, rows=1, deadline_ms=None, due_ms=None, level=1):
        """A request that arrives now."""
        now = self.clock.now_ns()

        def after(ms):
            return NEVER_NS if ms is None else now + round(ms * MS)

        program = self.mux.table[name].program
        request = Request(
            program,
            (),
            program.fit(rows),
            now,
            after(deadline_ms),
            after(due_ms),
            None,
            RequestFuture(lambda: self.mux.cancelled(request)),
            level,
        )
        self.mux.submit(request)
        return request

    def play(self, arrivals, until_ms=None):
        """Submits each (ms, name) at its time, then goes on to `until_ms` or to the end."""
        made = []
        for at_ms, name in sorted(arrivals):
            self.device.advance_to(round(at_ms * MS))
            made.append(self.submit(name))
        if until_ms is None:
            self.finish()
        else:
            self.device.advance_to(round(until_ms * MS))
        return made

    def finish(self):
        while self.device.pump():
            pass

    def launches(self):
        """(model, index) in the order of their start."""
        order = sorted(self.records, key=lambda r: (r.started_ns, r.ended_ns))
        return [(r.model, r.index) for r in order]

    def device_ms(self):
        """Model -> time on the device."""
        spent = Counter()
        for r in self.records:
            spent[r.model] += (r.ended_ns - r.started_ns) / MS
        return spent
