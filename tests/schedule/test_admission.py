"""Deadlines that cannot be met, and places in a queue, as pure functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missile_jax import InvalidInputError, ModelInfo, Priority
from missile_jax.schedule.admission import LAST_LEVEL, lateness_ns, level_of

TIMES_NS = st.integers(0, 10**10)


def info(priority: Priority) -> ModelInfo:
    return ModelInfo("m", priority, "default", None, (1,), None, (), (), 0)


@given(TIMES_NS, TIMES_NS)
def test_an_idle_system_refuses_nobody(own_ns, allowed_ns):
    assert lateness_ns(0, own_ns, allowed_ns) == 0


@given(TIMES_NS, TIMES_NS, TIMES_NS)
def test_who_is_refused_may_come_once_so_much_work_is_done(ahead_ns, own_ns, allowed_ns):
    late_ns = lateness_ns(ahead_ns, own_ns, allowed_ns)
    if late_ns:
        assert ahead_ns + own_ns == allowed_ns + late_ns
        assert lateness_ns(max(0, ahead_ns - late_ns), own_ns, allowed_ns) == 0
    else:
        assert not ahead_ns or ahead_ns + own_ns <= allowed_ns


@pytest.mark.parametrize(
    ("of", "priority", "level"),
    [
        ("latency", 0, 1),
        ("latency", 1, 1),
        ("latency", 7, 7),
        ("latency", "latency", 1),
        ("latency", "best_effort", LAST_LEVEL),
        ("best_effort", "best_effort", 1),
        ("best_effort", LAST_LEVEL, LAST_LEVEL),
    ],
)
def test_levels(of, priority, level):
    assert level_of(info(Priority(of)), priority) == level


@pytest.mark.parametrize("priority", [-1, LAST_LEVEL + 1, True, 1.5, "high", "latency", b"latency"])
def test_a_priority_that_is_none_or_above_the_class_is_refused(priority):
    with pytest.raises(InvalidInputError, match="allowed are 1, which goes first, to 4294967295"):
        level_of(info(Priority.BEST_EFFORT), priority)
