"""Weights and the floor on the XLA device: what it computes is real, what it takes is made up.

Each piece takes a millisecond of a virtual clock, so launches can be counted on a busy machine.
"""

from collections import Counter

import numpy as np
import pytest
from test_replay import NEVER_CALM, Recording, X, stages

from missile_jax import Missile
from missile_jax.engine.clock import VirtualClock
from missile_jax.engine.device import InlineDevice

MS = 1_000_000


class EvenInline(InlineDevice):
    """XLA on the caller's thread; the clock turns by a millisecond a piece."""

    def __init__(self, clock):
        super().__init__()
        self._clock = clock

    def launch(self, piece, finished):
        def timed(piece, error):
            self._clock.advance_to(self._clock.now_ns() + MS)
            finished(piece, error)

        super().launch(piece, timed)


def run_on_xla(policy):
    clock = VirtualClock()
    return Recording(EvenInline(clock), clock, policy)


def launches(run, pieces):
    """Model -> how many of the next `pieces` are its own, while all have work left."""
    before = len(run.records)
    while len(run.records) < before + pieces:
        assert run.mux.step()
    return Counter(record.model for record in run.records[before:])


def test_weights_1_2_4_share_the_device():
    run = run_on_xla(Missile(calm_ms=NEVER_CALM, beside=False))
    futures = []
    for name, weight in (("a", 1.0), ("b", 2.0), ("c", 4.0)):
        run.load(name, stages, weight=weight)
        futures += [run.submit(name) for _ in range(100)]
    share = launches(run, 140)
    assert share == pytest.approx({"a": 20, "b": 40, "c": 80}, abs=2)
    want = np.tanh(np.tanh(np.tanh(np.tanh(X))))
    done = [future for future in futures if future.done()]
    pieces = {m: len(run.mux.table[m].program.fit(1).plan.segments) for m in share}
    assert len(done) == sum(count // pieces[m] for m, count in share.items())
    for future in done:
        np.testing.assert_allclose(future.result()[0], want, rtol=1e-6)


@pytest.mark.parametrize("floor", [0.0, 0.1, 0.3])
def test_the_floor_is_kept_while_latency_asks_for_all(floor):
    policy = Missile(calm_ms=NEVER_CALM, beside=False, best_effort_floor=floor)
    run = run_on_xla(policy)
    run.load("ls", stages, priority="latency")
    run.load("be", stages)
    latency = [run.submit("ls") for _ in range(220)]
    for _ in range(100):
        run.submit("be")
    share = launches(run, 200)
    assert share["be"] == pytest.approx(200 * floor, abs=4)
    assert share["ls"] == 200 - share["be"] == sum(future.done() for future in latency)
