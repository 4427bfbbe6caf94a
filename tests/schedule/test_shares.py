"""Shares follow the weights, and nobody saves up a claim while away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missile_jax.schedule.shares import ClassShare, FairShare

LONGEST_NS = 1_000


def serve(fair, weights, pieces, spent):
    """Gives each piece to the model furthest behind, as policies do."""
    for duration in pieces:
        name = min(weights, key=lambda n: (fair.vruntime_ns(n), n))
        fair.charge(name, duration, weights[name])
        spent[name] = spent.get(name, 0) + duration
    return spent


@pytest.mark.smoke
@given(
    weights=st.dictionaries(
        st.sampled_from("abcdef"), st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=2
    ),
    pieces=st.lists(st.integers(1, LONGEST_NS), min_size=50, max_size=400),
)
def test_shares_hold_within_a_piece_per_unit_of_weight(weights, pieces):
    fair = FairShare()
    for name in weights:
        fair.wake(name)
    serve(fair, weights, pieces, {})
    behind = {name: fair.vruntime_ns(name) for name in weights}
    bound = max(LONGEST_NS / w for w in weights.values())
    assert max(behind.values()) - min(behind.values()) <= bound


def test_weights_1_2_4_get_a_seventh_each_time():
    fair, weights = FairShare(), {"a": 1.0, "b": 2.0, "c": 4.0}
    for name in weights:
        fair.wake(name)
    spent = serve(fair, weights, [100] * 7_000, {})
    assert spent == {
        "a": pytest.approx(100_000, abs=100),
        "b": pytest.approx(200_000, abs=100),
        "c": pytest.approx(400_000, abs=100),
    }


def test_a_model_that_wakes_gets_no_credit_for_its_absence():
    fair, weights = FairShare(), {"a": 1.0, "b": 1.0}
    fair.wake("a")
    fair.charge("a", 1_000_000, 1.0)
    fair.wake("b")
    spent = serve(fair, weights, [10] * 100, {})
    assert abs(spent["a"] - spent["b"]) <= 10


def test_a_nap_neither_gains_nor_loses():
    fair = FairShare()
    fair.wake("a")
    fair.wake("b")
    fair.charge("a", 500, 1.0)
    fair.charge("b", 100, 1.0)
    fair.sleep("a")
    fair.wake("a")
    assert (fair.vruntime_ns("a"), fair.vruntime_ns("b")) == (500, 100)


def test_the_floor_outlives_everybody():
    fair = FairShare()
    fair.wake("a")
    fair.charge("a", 1_000, 1.0)
    fair.sleep("a")
    fair.wake("new")
    assert fair.vruntime_ns("new") == 1_000


def test_a_forgotten_name_starts_anew():
    fair = FairShare()
    fair.wake("a")
    fair.wake("b")
    fair.charge("a", 1_000, 1.0)
    fair.forget("a")
    fair.wake("a")
    assert fair.vruntime_ns("a") == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["wake", "sleep", "charge", "forget"]), st.sampled_from("abc")),
        max_size=60,
    )
)
def test_virtual_runtimes_and_their_floor_never_fall(steps):
    fair, before = FairShare(), {}
    for step, name in steps:
        if step == "charge":
            fair.wake(name)
            fair.charge(name, 100, 2.0)
        else:
            getattr(fair, step)(name)
        if step == "forget":
            before.pop(name, None)
        elif name in before:
            assert fair.vruntime_ns(name) >= before[name]
        before[name] = fair.vruntime_ns(name)


def test_class_share_is_all_best_effort_until_somebody_ran():
    assert ClassShare().best_effort() == 1.0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2_000_000_000)), max_size=30))
def test_class_share_is_a_fraction(charges):
    share = ClassShare()
    for latency, duration_ns in charges:
        share.charge(latency, duration_ns)
        assert 0.0 <= share.best_effort() <= 1.0


def test_class_share_forgets_what_is_long_ago():
    share = ClassShare()
    share.charge(True, 1_000_000_000)
    for _ in range(100):
        share.charge(False, 100_000_000)
    assert share.best_effort() > 0.99
