"""Segments compute on a GPU what the whole does."""

import jax
import numpy as np
import pytest

from missile_jax import Model, models
from missile_jax.program.bind import bind, parameter_leaves
from missile_jax.program.build import Builder
from missile_jax.program.costs import EstimatedCosts
from missile_jax.program.trace import trace

pytestmark = pytest.mark.gpu

SEGMENTS = 8


@pytest.mark.parametrize("name", ["resnet50", "minilm"])
def test_segments_agree_with_the_whole(name, gpu):
    # Full float32: with TF32 the two may round inputs to 10 bits at different places.
    with jax.default_matmul_precision("float32"):
        net = models.load(name, random_weights=True)
        fn, params = bind(Model(name, net.module, net.variables, example=net.example))
        leaves, tree = parameter_leaves(name, params)
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
        traced = trace(fn, jax.tree.unflatten(tree, shapes), net.example)
        costs = EstimatedCosts()
        total_ns = sum(costs.cost_ns(eqn) for eqn in traced.jaxpr.eqns)
        builder = Builder(gpu, costs, total_ns // SEGMENTS, profile=False)
        rng = np.random.default_rng(0)
        inputs = [
            rng.standard_normal(x.shape, np.float32) if x.dtype == np.float32 else x
            for x in jax.tree.leaves(net.example)
        ]
        plan = builder.build(traced, leaves, inputs, segmented=True)
    on_gpu = [jax.device_put(x, gpu) for x in (*leaves, *traced.hoisted)]
    assert SEGMENTS // 2 <= len(plan.segments) <= 2 * SEGMENTS
    (whole,) = plan.run(on_gpu, inputs, whole=True)
    (cut,) = plan.run(on_gpu, inputs)
    assert cut.devices() == {gpu}
    error = np.max(np.abs(np.asarray(cut) - np.asarray(whole))) / np.max(np.abs(np.asarray(whole)))
    assert error <= 1e-4
