"""Plans of channels, and the fewest pages that they can do with."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog

from missile_jax.coloring.plan import ChannelPlan, least_pages
from missile_jax.errors import ConfigError
from missile_jax.spec import Priority

LS, BE = Priority.LATENCY, Priority.BEST_EFFORT


@pytest.mark.parametrize(
    ("channels", "share", "best_effort"),
    [(12, 1 / 3, 4), (6, 1 / 3, 2), (32, 1 / 3, 11), (80, 1 / 3, 27), (2, 0.1, 1), (5, 1, 5)],
)
def test_best_effort_has_its_share_and_latency_all(channels, share, best_effort):
    plan = ChannelPlan.by_class(channels, best_effort_share=share)
    assert plan.of("any", BE) == tuple(range(best_effort))
    assert plan.of("any", LS) == tuple(range(channels))


def test_latency_can_have_the_others_for_itself():
    plan = ChannelPlan.by_class(12, latency_alone=True)
    assert plan.of("any", LS) == tuple(range(4, 12))
    with pytest.raises(ConfigError, match="'latency' has no channel"):
        ChannelPlan.by_class(4, best_effort_share=1, latency_alone=True)


def test_a_tenants_own_channels_go_before_its_class():
    plan = ChannelPlan(4, [0, 1], [2, 3], {"gold": [3, 0, 3]})
    assert plan.of("gold", LS) == plan.of("gold", BE) == (0, 3)
    assert plan.of("other", BE) == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, [0], [0]), "at least 1"),
        ((4, [], [0]), "'latency' has no channel"),
        ((4, [0], [4]), "'best_effort' has channel 4; there are 0 to 3"),
        ((4, [0], [-1]), "channel -1"),
        ((4, [0], [1], {"t": [9]}), "'t' has channel 9"),
    ],
)
def test_channels_that_are_not_there_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ChannelPlan(*arguments)
    with pytest.raises(ConfigError, match="best_effort_share=0"):
        ChannelPlan.by_class(4, best_effort_share=0)


def pages_by_linear_program(granules, channels, per_page):
    """The least x such that all granules fit into x pages' channels, shared out in any parts."""
    sets = list(granules)
    names = [(s, c) for s in sets for c in s]
    objective = [0.0] * len(names) + [1.0]
    room = [[float(c == k) for _, c in names] + [-per_page / channels] for k in range(channels)]
    total = [[float(s == t) for t, _ in names] + [0.0] for s in sets]
    found = linprog(objective, A_ub=room, b_ub=[0.0] * channels, A_eq=total,
                    b_eq=[granules[s] for s in sets])  # fmt: skip
    return found.fun


def test_the_fewest_pages_are_those_of_a_linear_program():
    rng = np.random.default_rng(0)
    for _ in range(60):
        channels = int(rng.integers(2, 7))
        subsets = [
            s for k in range(1, channels + 1) for s in itertools.combinations(range(channels), k)
        ]
        picks = rng.choice(len(subsets), min(4, len(subsets)), replace=False)
        granules = {subsets[k]: int(rng.integers(0, 200)) for k in picks}
        exact = pages_by_linear_program(granules, channels, 32)
        assert least_pages(granules, channels, 32) == int(np.ceil(exact - 1e-9))


def test_of_many_sets_each_and_all_of_them_count():
    granules = {(k,): 16 for k in range(20)}
    assert least_pages(granules, 20, 64) == 5
    assert least_pages(granules | {(0,): 32}, 20, 64) == 10
    assert least_pages({}, 4, 8) == 0
