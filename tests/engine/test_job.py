"""A job: its requests' inputs are its own, and it goes from piece to piece."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from missile_jax import Model
from missile_jax.engine.job import Job
from missile_jax.engine.request import NEVER_NS, Request, RequestFuture
from missile_jax.memory.parameters import Fixed
from missile_jax.program.build import Builder
from missile_jax.program.load import load

X = np.arange(4, dtype=np.float32)[None]


class MillisecondEach:
    """What every equation costs."""

    def cost_ns(self, eqn):
        return 10**6


@pytest.fixture(scope="module")
def program():
    def fn(w, x):
        return (x @ w) @ w

    model = Model("m", fn, np.eye(4, dtype=np.float32), example=X, buckets=[4])
    # Not profiled: how long a launch takes would move the cut.
    return load(model, Builder(jax.devices()[0], MillisecondEach(), 10**6, profile=False))


def request(program, x):
    future, fit = RequestFuture(lambda: None), program.fit(len(x))
    return Request(program, [x], fit, 0, NEVER_NS, NEVER_NS, lambda leaves: leaves[0], future)


def run(job, whole):
    pieces = []
    while not job.done:
        piece = job.piece(whole)
        piece.run()
        job.advance(piece)
        pieces.append(piece.index)
    return pieces


@pytest.mark.parametrize(("whole", "indices"), [(True, [-1]), (False, [0, 1])])
def test_each_request_gets_its_own_rows_in_pieces_or_whole(program, whole, indices):
    job = Job(program, Fixed(program.leaves), [request(program, X), request(program, 2 * X)])
    assert run(job, whole) == indices
    first, second = job.answers()
    np.testing.assert_array_equal(first, X)
    np.testing.assert_array_equal(second, 2 * X)


@pytest.mark.parametrize(("whole_ns", "indices"), [(2_100, [-1]), (2_200, [0, 1])])
def test_what_is_clearly_faster_in_segments_never_runs_whole(program, whole_ns, indices):
    (plan,) = program.plans.values()
    segments = tuple(replace(segment, duration_ns=1_020) for segment in plan.segments)
    plan = replace(plan, whole=replace(plan.whole, duration_ns=whole_ns), segments=segments)
    program = replace(program, plans=dict.fromkeys(program.plans, plan))
    job = Job(program, Fixed(program.leaves), [request(program, X)])
    assert run(job, whole=True) == indices


def test_a_job_under_way_goes_on_in_segments(program):
    job = Job(program, Fixed(program.leaves), [request(program, X)])
    job.advance(job.piece(whole=False))
    assert job.piece(whole=True).index == 1


def test_a_request_that_is_given_up_before_the_launch_spares_its_batch(program):
    given_up, other = request(program, X), request(program, 2 * X)
    job = Job(program, Fixed(program.leaves), [given_up, other])
    given_up.inputs, given_up.settled = (), True
    assert job.wanted
    run(job, True)
    np.testing.assert_array_equal(job.answers()[1], 2 * X)


def test_a_job_is_wanted_as_long_as_anybody_waits(program):
    requests = [request(program, X), request(program, X)]
    job = Job(program, Fixed(program.leaves), requests)
    for one in requests:
        assert job.wanted
        one.settled = True
    assert not job.wanted
