"""The zoo's networks in segments, at cuts that the partitioner chose, against the whole."""

import jax
import numpy as np
import pytest

from missile_jax import Model, models
from missile_jax.program import build
from missile_jax.program.build import TOLERANCE, Builder
from missile_jax.program.costs import EstimatedCosts
from missile_jax.program.load import load

# Of estimated time, so that cuts are the same everywhere.
QUANTUM_NS = {
    "squeezenet": 7_000_000,  # two of its convolutions are longer, and sliced
    "mobilenet": 20_000_000,
    "efficientnet": 20_000_000,
    "resnet50": 100_000_000,
    "minilm": 20_000_000,
}


@pytest.mark.parametrize("name", QUANTUM_NS)
def test_segments_are_within_a_hundred_thousandth_of_the_whole(name):
    net = models.load(name, random_weights=True)
    # Estimates alone choose the cuts; what they are worth is then recorded as a runtime does it.
    builder = Builder(jax.devices()[0], EstimatedCosts(), QUANTUM_NS[name], profile=False)
    program = load(Model(name, net.module, net.variables, example=net.example), builder)
    rng = np.random.default_rng(0)
    inputs = [
        rng.standard_normal(x.shape).astype(np.float32)
        if x.dtype == np.float32
        else rng.integers(0, 2, x.shape).astype(x.dtype)
        for x in jax.tree.leaves(net.example)
    ]
    plan = program.plans[1, 0]
    assert len(plan.segments) > 1
    (whole,) = plan.run(program.leaves, inputs, whole=True)
    (cut,) = plan.run(program.leaves, inputs)
    whole, cut = np.asarray(whole), np.asarray(cut)
    assert np.ptp(whole) > 0
    assert np.abs(cut - whole).max() <= TOLERANCE * np.abs(whole).max()
    checked = build._checked(plan, program.leaves, inputs)
    assert checked.segments == plan.segments
    assert checked.bit_identical == (cut.tobytes() == whole.tobytes())
    assert checked.max_relative_error <= TOLERANCE
