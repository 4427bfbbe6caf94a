"""benchmarks.single_server: latencies by hand."""

import numpy as np
import pytest

from benchmarks.single_server import by_urgency, in_order
from missile_jax import SLO


def test_in_order_of_arrival() -> None:
    latencies = in_order(np.array([0.0, 0.1, 0.2, 5.0]), service_s=1.0)
    assert latencies == pytest.approx([1.0, 1.9, 2.8, 1.0])


def test_by_urgency_lets_the_late_wait_for_those_in_time() -> None:
    arrivals_s = np.array([0.0, 0.0, 0.0, 0.0, 2.5])
    function = np.array([0, 0, 0, 0, 1])
    slos = [SLO(3000.0), SLO(2000.0)]
    latencies = by_urgency(arrivals_s, np.ones(5), function, slos)
    assert latencies == pytest.approx([1, 2, 3, 5, 1.5])


def test_by_urgency_is_in_order_where_all_have_one_objective_and_none_is_late() -> None:
    arrivals_s = np.sort(np.random.default_rng(0).uniform(0, 100, 50))
    function = np.arange(50) % 3
    urgent = by_urgency(arrivals_s, np.ones(50), function, [SLO(1e6)] * 3)
    assert urgent == pytest.approx(in_order(arrivals_s, 1.0))
