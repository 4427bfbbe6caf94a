"""A model's description is checked when it is made, and says what is allowed."""

import math

import numpy as np
import pytest

from missile_jax import SLO, ConfigError, Model, Priority, Tenant
from missile_jax.spec import size_bytes

X = np.zeros((1, 2), np.float32)


@pytest.mark.smoke
def test_defaults():
    model = Model("net", lambda p, x: x, example=X)
    assert model.priority is Priority.BEST_EFFORT
    assert (model.buckets, model.lengths, model.weight) == ((1,), None, 1.0)


def test_sizes_are_sorted_and_unique():
    model = Model("net", None, example=X, buckets=[8, 1, 8], lengths=(64, 16))
    assert (model.buckets, model.lengths) == ((1, 8), (16, 64))


@pytest.mark.parametrize("value", [Priority.LATENCY, "latency"])
def test_priority_by_name_or_member(value):
    assert Model("net", None, example=X, priority=value).priority is Priority.LATENCY


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "", "model name ''"),
        ("name", "a b", "letters, digits"),
        ("name", "-a", "the first a letter"),
        ("name", "a" * 129, "1 to 128"),
        ("name", 7, "model name 7"),
        ("priority", "urgent", "allowed: 'latency', 'best_effort'"),
        ("buckets", [], "whole numbers"),
        ("buckets", [0], "whole numbers"),
        ("buckets", [True], "whole numbers"),
        ("buckets", [1.5], "whole numbers"),
        ("buckets", 8, "buckets=8 must be a list"),
        ("lengths", [], "lengths="),
        ("example", None, "example= is missing"),
        ("slo", 50, "missile_jax.SLO"),
        ("weight", 0, "weight=0"),
        ("weight", math.inf, "weight=inf"),
        ("weight", math.nan, "weight=nan"),
        ("queue_limit", 0, "queue_limit=0"),
    ],
)
def test_impossible_fields_are_named(field, value, message):
    fields = {"name": "net", "model": None, "example": X, field: value}
    with pytest.raises(ConfigError, match=message):
        Model(**fields)


@pytest.mark.parametrize(
    ("value", "size"),
    [(7, 7), ("7", 7), ("1KiB", 1024), ("2 MB", 2_000_000), ("1.5gib", 3 << 29), ("3B", 3)],
)
def test_sizes_in_bytes(value, size):
    assert size_bytes("x", value) == size


@pytest.mark.parametrize("value", [0, -1, True, 1.5, None, "", "-1", "0", "1 QiB", "GiB", "1e3"])
def test_impossible_sizes_in_bytes(value):
    with pytest.raises(ConfigError, match=r"x=.* must be a positive number of bytes"):
        size_bytes("x", value)


@pytest.mark.parametrize("weight", [0, -1, math.inf, math.nan])
def test_impossible_link_weights(weight):
    with pytest.raises(ConfigError, match=r"link_weight=.* must be a positive number"):
        Tenant(link_weight=weight)


def test_impossible_quotas():
    with pytest.raises(ConfigError, match="memory_quota='some' must be a positive number of bytes"):
        Tenant(memory_quota="some")
    assert Tenant().quota_bytes is None


@pytest.mark.parametrize("deadline_ms", [0, -1, math.inf, math.nan])
def test_slo_deadlines_are_positive(deadline_ms):
    with pytest.raises(ConfigError, match="deadline_ms"):
        SLO(deadline_ms)


@pytest.mark.parametrize("percentile", [0, 1, 99])
def test_slo_percentiles_are_fractions(percentile):
    with pytest.raises(ConfigError, match=r"such as 0\.99"):
        SLO(10, percentile)
