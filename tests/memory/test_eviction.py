"""memory.eviction: who leaves first, by pure rules."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missile_jax.memory.eviction import (
    GreedyDual,
    LeastRecent,
    LightFirst,
    Return,
    cost_of_return,
)


@dataclass(slots=True)
class Some:
    """A model: `use` lets it in for a request."""

    cost: Return
    size_bytes: int = 100
    uses: int = 0
    last_used_ns: int = 0
    worth: float = 0.0

    def use(self, order, at_ns):
        self.uses += 1
        self.last_used_ns = at_ns
        order.used(self)


def light(delay_ns=10):
    return Some(Return(False, delay_ns))


def heavy(delay_ns=1000):
    return Some(Return(True, delay_ns))


def leaves(order, models):
    return min(models, key=order.key)


def test_a_light_model_costs_its_first_group_and_a_heavy_one_what_compute_does_not_hide():
    assert cost_of_return([10, 10, 10], [0, 1, 2], [50, 50, 50], 150, 0) == Return(False, 10)
    assert cost_of_return([10, 10, 10], [0, 1, 2], [1, 1, 1], 3, 0) == Return(True, 28)
    assert cost_of_return([10, 10], [-1, 1], [100, 100], 200, 0) == Return(False, 0)


def test_a_model_begins_before_its_last_group_where_it_is_done_sooner():
    groups, segments = ([10, 10, 10], [0, 1, 2]), [50, 50, 50]
    # Nothing to begin with.
    assert cost_of_return([10, 10], [1, -1], [100, 100], 200, 0) == Return(False, 20, False)
    assert cost_of_return([], [-1], [5], 5, 0) == Return(False, 0, False)
    # Segments take longer than the whole by as much as 20 of the copy that they hide, or by less.
    assert cost_of_return(*groups, segments, 130, 0) == Return(False, 30, False)
    assert cost_of_return(*groups, segments, 131, 0) == Return(False, 10)
    # Of these 20, copies take a half of the processors, or all.
    assert cost_of_return(*groups, segments, 141, 0.5) == Return(False, 20)
    assert cost_of_return(*groups, segments, 140, 0.5) == Return(False, 30, False)
    assert cost_of_return(*groups, segments, 150, 1) == Return(False, 30, False)
    assert cost_of_return(*groups, segments, 151, 1) == Return(False, 30)


@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=6),
)
def test_the_delay_is_the_worst_over_segments_of_copies_before_and_compute_behind(pairs):
    group_ns, compute_ns = zip(*pairs, strict=True)
    count = len(pairs)
    cost = cost_of_return(group_ns, range(count), compute_ns, sum(compute_ns), 0)
    bound = max(sum(group_ns[: k + 1]) + sum(compute_ns[k:]) for k in range(count))
    assert cost.delay_ns == bound - sum(compute_ns)


@pytest.mark.parametrize("order", [GreedyDual(), LightFirst()])
def test_a_light_model_leaves_before_a_heavy_one_that_was_used_earlier(order):
    cheap, dear = light(), heavy()
    dear.use(order, 1)
    cheap.use(order, 2)
    assert leaves(order, [cheap, dear]) is cheap


def test_by_least_recent_use_the_cost_does_not_matter():
    order, cheap, dear = LeastRecent(), light(), heavy()
    dear.use(order, 1)
    cheap.use(order, 2)
    assert leaves(order, [cheap, dear]) is dear


def test_a_heavy_model_that_nobody_calls_leaves_in_the_end():
    order, idle = GreedyDual(), heavy()
    idle.use(order, 0)
    for at_ns in range(1, 200):
        # Always another light model comes, and the least worth leaves.
        other = light()
        other.use(order, at_ns)
        victim = leaves(order, [idle, other])
        order.evicted(victim)
        if victim is idle:
            break
    # 10 ns of delay a turn make up for 1,000 ns.
    assert 95 <= at_ns <= 105


def test_the_one_called_often_stays():
    order, often, once = GreedyDual(), light(), light()
    for at_ns in range(3):
        often.use(order, at_ns)
    once.use(order, 3)
    assert leaves(order, [often, once]) is once


def test_of_two_equal_delays_the_larger_model_leaves():
    order, small, large = GreedyDual(), heavy(), Some(Return(True, 1000), size_bytes=1000)
    for model in (small, large):
        model.use(order, 1)
    assert leaves(order, [small, large]) is large
