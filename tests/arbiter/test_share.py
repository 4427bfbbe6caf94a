"""Tenants that yield launch beside each other, as far as their weights allow."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missile_jax._native import Sharer, arbiter_limits, share_out

LOOK_NS = arbiter_limits()["quantum_ns"]
SLACK_NS = arbiter_limits()["slack_ns"]


class Time:
    """Looks, one after the other, and how many of them each tenant was at work and might launch."""

    def __init__(self, *weights):
        self.sharers = [Sharer(weight) for weight in weights]
        self.worked = [0] * len(weights)

    def look(self, *at_work):
        for k, (sharer, works) in enumerate(zip(self.sharers, at_work, strict=True)):
            sharer.at_work = works
            self.worked[k] += works and sharer.may_launch
        share_out(LOOK_NS, self.sharers)
        return [sharer.may_launch for sharer in self.sharers]


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=200))
def test_those_of_one_weight_never_wait(looks):
    time = Time(1.0, 1.0, 1.0)
    assert all(all(time.look(*look)) for look in looks)


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
    st.floats(0.05, 1.0),
)
def test_of_those_at_work_now_or_a_look_ago_one_may_always_launch(weights, seed, duty):
    rng = random.Random(seed)
    time = Time(*weights)
    before = [False for _ in weights]
    for _ in range(300):
        look = [rng.random() < duty for _ in weights]
        may = time.look(*look)
        counts = [now or then for now, then in zip(look, before, strict=True)]
        assert not any(counts) or any(m for m, one in zip(may, counts, strict=True) if one)
        before = look


@pytest.mark.parametrize("weights", [(2.0, 1.0), (1.0, 4.0), (3.0, 2.0, 1.0), (100.0, 1.0)])
@pytest.mark.parametrize("seen", [1.0, 0.95])
def test_who_is_always_at_work_has_time_by_weight(weights, seen):
    """`seen`: how often a look falls on a launch and not between two."""
    rng = random.Random(0)
    time = Time(*weights)
    for _ in range(20_000):
        time.look(*(not sharer.may_launch or rng.random() < seen for sharer in time.sharers))
    most = max(time.worked)
    for weight, worked in zip(weights, time.worked, strict=True):
        assert worked / most == pytest.approx(weight / max(weights), rel=0.15, abs=0.01)


def test_who_works_little_holds_nobody_up_for_long():
    time = Time(10.0, 1.0)
    held_up = 0
    for k in range(3000):
        held_up += not time.look(k % 30 == 0, True)[1]
    assert held_up <= 2 * 100 + 1  # The look that finds it at work, and one more.


def test_who_was_away_has_no_credit_for_it():
    time = Time(1.0, 1.0)
    for _ in range(1000):
        time.look(False, True)
    assert all(time.look(True, True))
    ahead_ns = time.sharers[1].vruntime_ns - time.sharers[0].vruntime_ns
    assert ahead_ns <= SLACK_NS


def test_who_is_ahead_waits_until_the_other_has_caught_up_or_left():
    time = Time(1.0, 0.1)
    waited = 0
    while time.look(True, True)[1]:
        waited += 1
        assert waited < 10
    assert time.look(True, True) == [True, False]
    assert time.look(False, True) == [True, False]  # Between two launches, maybe.
    assert time.look(False, True)[1]
