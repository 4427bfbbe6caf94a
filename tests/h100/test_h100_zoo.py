"""The networks of the zoo compile for an H100, whole and in segments, without one."""

import jax
import pytest
from h100_worker import CompiledPlan, compile_model

from missile_jax import models

pytestmark = pytest.mark.h100

SEGMENTS = 8
H100_BYTES = 80_000_000_000


@pytest.fixture(scope="module", params=models.names())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def plan(name, on_h100) -> CompiledPlan:
    return on_h100(compile_model, name, SEGMENTS)


@pytest.fixture(scope="module")
def sizes(name) -> tuple[int, int]:
    """Bytes of the parameters and of the input."""
    net = models.load(name, random_weights=True)
    return tuple(sum(x.nbytes for x in jax.tree.leaves(t)) for t in (net.variables, net.example))


def test_it_is_code_for_a_gpu(plan):
    assert plan.platform == "gpu"
    assert plan.whole.kernels
    assert any(segment.kernels for segment in plan.segments)


def test_the_whole_takes_all_parameters_and_the_input(plan, sizes):
    assert plan.whole.argument_bytes == sum(sizes)
    assert 0 < plan.whole.output_bytes < plan.whole.argument_bytes


def test_every_executable_fits_and_says_what_it_needs(plan):
    for compiled in (plan.whole, *plan.segments):
        assert compiled.argument_bytes == sum(compiled.arguments)
        assert compiled.temp_bytes > 0
        total = compiled.argument_bytes + compiled.output_bytes + compiled.temp_bytes
        assert total < H100_BYTES
    assert plan.temp_bytes == max(c.temp_bytes for c in (plan.whole, *plan.segments))


def test_segments_share_the_parameters_among_them(plan, sizes):
    assert SEGMENTS // 2 <= len(plan.segments) <= 2 * SEGMENTS
    assert {p for s in plan.segments for p in s.params} == set(plan.whole.params)
    assert max(s.argument_bytes for s in plan.segments) < plan.whole.argument_bytes
    assert plan.segments[-1].output_bytes == plan.whole.output_bytes


def test_convolutions_transpose_nothing_but_values_between_segments(name, plan):
    # A transformer transposes what it computes. Convolutions want the values between segments in
    # another order than those lie in: one goes in, one comes out.
    assert name == "minilm" or plan.whole.transposes == 0
    assert max(segment.transposes for segment in plan.segments) <= 2


def test_parameters_as_they_come_are_transposed_at_every_launch(on_h100):
    plan = on_h100(compile_model, "squeezenet", SEGMENTS, False)
    assert plan.whole.transposes == 26  # each of its convolutions
