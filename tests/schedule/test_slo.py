"""Objectives: who can be in time, and who is short of what was promised."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missile_jax.schedule.slo import Attainment, Standing, Urgency, standing
from missile_jax.spec import SLO


@dataclass(frozen=True)
class Ask:
    arrival_ns: int
    due_ns: int
    work_ns: int


@pytest.mark.parametrize(
    ("now_ns", "expected"),
    [
        (0, Standing.IN_TIME),
        (70, Standing.IN_TIME),
        (71, Standing.LATE),
        (100, Standing.LATE),
        (999, Standing.LATE),
        (1000, Standing.OVERDUE),
        (10**9, Standing.OVERDUE),
    ],
)
def test_a_request_is_late_when_its_work_no_longer_fits(now_ns, expected):
    assert standing(Ask(0, 100, 30), now_ns, 0) is expected


def test_a_request_is_late_when_what_others_took_no_longer_fits():
    assert standing(Ask(0, 100, 30), 60, usual_ns=40) is Standing.IN_TIME
    assert standing(Ask(0, 100, 30), 61, usual_ns=40) is Standing.LATE


@pytest.mark.parametrize(("work_ns", "usual_ns"), [(10_000, 0), (0, 10_000)])
def test_a_request_is_not_given_up_while_half_of_its_time_is_left(work_ns, usual_ns):
    assert standing(Ask(0, 100, work_ns), 50, usual_ns) is Standing.IN_TIME
    assert standing(Ask(0, 100, work_ns), 51, usual_ns) is Standing.LATE


@given(
    arrival_ns=st.integers(0, 100),
    allowed_ns=st.integers(1, 100),
    work_ns=st.integers(0, 200),
    times=st.lists(st.integers(0, 3000), min_size=2),
)
def test_a_request_gets_late_and_then_overdue_and_never_back(
    arrival_ns, allowed_ns, work_ns, times
):
    ask = Ask(arrival_ns, arrival_ns + allowed_ns, work_ns)
    order = [Standing.IN_TIME, Standing.LATE, Standing.OVERDUE]
    seen = [order.index(standing(ask, arrival_ns + t, 0)) for t in sorted(times)]
    assert seen == sorted(seen)


def test_urgencies_are_ordered_by_standing_then_by_when_they_are_due():
    expected = [
        Urgency(Standing.OVERDUE, 90),
        Urgency(Standing.IN_TIME, 10),
        Urgency(Standing.IN_TIME, 20),
        Urgency(Standing.SHORT, 5),
        Urgency(Standing.LATE, 1),
    ]
    backwards = expected[::-1]
    backwards.sort()
    assert backwards == expected


def noted(percentile, *latencies_ms):
    attainment = Attainment(SLO(10.0, percentile))
    for latency_ms in latencies_ms:
        attainment.note(latency_ms * 1e6)
    return attainment


def test_the_required_count_is_torpors():
    # (p n - m) / (1 - p) with n = 10 and m = 8.
    attainment = noted(0.9, *[10.0] * 8, 10.1, float("inf"))
    assert attainment.required == pytest.approx((0.9 * 10 - 8) / (1 - 0.9))
    assert attainment.short


def test_so_many_in_time_make_up_for_what_was_late():
    attainment = noted(0.9, 11, 11)
    while attainment.short:
        before = attainment.required
        attainment.note(1e6)
        assert attainment.required == pytest.approx(before - 1)
    assert -1 < attainment.required < 1e-9


def test_one_late_request_makes_no_model_short():
    assert not noted(0.99, 11).short
    assert noted(0.99, 11, 11).short


def test_what_is_long_ago_counts_less():
    # A thousand late ones would take 99,000 in time to make up for.
    attainment = noted(0.99, *[11] * 1000)
    for _ in range(20_000):
        attainment.note(1e6)
    assert not attainment.short
