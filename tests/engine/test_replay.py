"""One recorded schedule replays on both devices: what XLA ran, the simulator launches."""

import time
from collections import deque
from concurrent.futures import wait

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simulation import Simulation

from missile_jax import LaunchRecord, Missile, Model
from missile_jax.engine.clock import VirtualClock, WallClock
from missile_jax.engine.device import InlineDevice, LaneDevice
from missile_jax.engine.multiplexer import Multiplexer
from missile_jax.engine.request import NEVER_NS, Request, RequestFuture
from missile_jax.engine.simulated import SimulatedDevice
from missile_jax.engine.table import Served
from missile_jax.memory.parameters import Fixed
from missile_jax.program.build import Builder
from missile_jax.program.costs import EstimatedCosts
from missile_jax.program.load import load
from missile_jax.schedule.queue import RequestQueue

NEVER_CALM = float("inf")
X = np.full((1, 8), 0.5, np.float32)
W = np.eye(8, dtype=np.float32)


class Recording:
    """An engine on a real device that keeps arrivals and launches."""

    def __init__(self, device, clock, policy):
        self.records: list[LaunchRecord] = []
        self.arrivals: list[tuple[int, str]] = []
        self.device, self.clock, self.policy = device, clock, policy
        self.mux = Multiplexer(device, policy, clock, self.records.append)
        self.builder = Builder(jax.devices()[0], EstimatedCosts(), 3_000)

    def load(self, name, fn, *, weight=1.0, **fields):
        model = Model(name, fn, W, example=X, weight=weight, **fields)
        program = load(model, self.builder)
        self.mux.add(Served(program, Fixed(program.leaves), weight, RequestQueue(1000)))

    def submit(self, name):
        now_ns = self.clock.now_ns()
        self.arrivals.append((now_ns, name))
        future = RequestFuture(lambda: None)
        program = self.mux.table[name].program
        self.mux.submit(
            Request(
                program,
                [X],
                program.fit(1),
                now_ns,
                NEVER_NS,
                NEVER_NS,
                lambda leaves: leaves,
                future,
            )
        )
        return future

    def sequence(self):
        return order(self.records)

    def replay(self):
        """The launches of the simulated device, given the arrivals and when each piece ended."""
        ends: dict[str, deque[int]] = {}
        for record in self.records:  # one piece of a model is in flight at a time
            ends.setdefault(record.model, deque()).append(record.ended_ns)

        class Replayed(SimulatedDevice):
            def end_ns(self, piece):
                return ends[piece.job.requests[0].model].popleft()

        clock = VirtualClock()
        device = Replayed(clock)
        launched: list[LaunchRecord] = []
        mux = Multiplexer(device, self.policy, clock, launched.append)
        for served in self.mux.table:
            mux.add(Served(served.program, Fixed(()), served.weight, RequestQueue(1000)))
        for at_ns, name in self.arrivals:
            device.advance_to(max(at_ns - 1, clock.now_ns()))
            clock.advance_to(at_ns)
            program = mux.table[name].program
            mux.submit(
                Request(
                    program,
                    [X],
                    program.fit(1),
                    at_ns,
                    NEVER_NS,
                    NEVER_NS,
                    None,
                    RequestFuture(list),
                )
            )
        while device.pump():
            pass
        return order(launched)


def order(records):
    records = sorted(records, key=lambda r: (r.started_ns, r.ended_ns))
    return [(r.model, r.index, r.rows) for r in records]


def stages(w, x):
    for _ in range(4):
        x = jnp.tanh(x @ w)
    return x


@pytest.mark.smoke
def test_a_run_on_threads_replays(barrier):
    held = barrier()

    def with_stops(w, x):
        for _ in range(3):
            x = held.point(jnp.tanh(x @ w))
        return x

    run = Recording(LaneDevice(), WallClock(), Missile(calm_ms=NEVER_CALM))
    run.load("be", with_stops)
    run.load("ls", stages, priority="latency")
    run.load("ls2", stages, priority="latency")
    rng = np.random.default_rng(0)
    held.shut()
    futures = [run.submit("be") for _ in range(3)]
    for _ in range(9):
        # Requests arrive while a segment is held up, so their place in the order is certain.
        held.wait_entered()
        mine = [run.submit(rng.choice(["ls", "ls2"])) for _ in range(rng.integers(3))]
        if rng.integers(2):
            wait(mine)
        futures += mine
        held.open()
        held.shut()
    held.open()
    wait(futures)
    run.mux.close()
    assert sum(name == "be" for name, *_ in run.sequence()) > 3 * 3
    assert run.replay() == run.sequence()


class TimedInline(InlineDevice):
    """XLA on the caller's thread; the clock turns by what each piece was measured to take.

    halfway: called in the middle of each piece.
    """

    def __init__(self, clock, halfway):
        super().__init__()
        self._clock, self._halfway = clock, halfway

    def launch(self, piece, finished):
        start_ns = time.perf_counter_ns()

        def timed(piece, error):
            took_ns = time.perf_counter_ns() - start_ns
            end_ns = self._clock.now_ns() + took_ns
            self._clock.advance_to(end_ns - took_ns // 2)
            self._halfway()
            self._clock.advance_to(end_ns)
            finished(piece, error)

        super().launch(piece, timed)


def test_a_run_in_a_loop_of_ones_own_replays():
    rng, futures = np.random.default_rng(0), []

    def arrive():
        if rng.integers(3) == 0 and len(futures) < 60:
            futures.append(run.submit(rng.choice(["a", "b", "c", "ls"])))

    clock = VirtualClock()
    one_at_a_time = Missile(calm_ms=NEVER_CALM, beside=False)
    run = Recording(TimedInline(clock, arrive), clock, one_at_a_time)
    for name, weight in (("a", 1.0), ("b", 2.0), ("c", 4.0)):
        run.load(name, stages, weight=weight)
    run.load("ls", stages, priority="latency")
    futures += [run.submit(name) for name in "abcabcabc"]
    while run.mux.step():
        pass
    assert all(f.done() for f in futures)
    assert {name for name, *_ in run.sequence()} == {"a", "b", "c", "ls"}
    assert len({index for _, index, _ in run.sequence()}) > 2
    assert run.replay() == run.sequence()


def test_a_simulated_schedule_is_the_policy_s_alone():
    """The simulator imports no jax and reads no wall clock: two runs are equal to the ns."""

    def once():
        sim = Simulation(Missile(calm_ms=NEVER_CALM))
        sim.serve("be", [1.0] * 4)
        sim.serve("ls", [0.5], latency=True)
        sim.play([(0, "be"), (0, "be"), (1.5, "ls"), (2.25, "ls")])
        return sim.records

    assert once() == once()
