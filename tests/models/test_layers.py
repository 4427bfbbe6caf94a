import jax
import numpy as np
import pytest
from flax import linen as nn

from missile_jax.models.layers import ConvNorm, InvertedResidual, hwio, random_variables

pytestmark = pytest.mark.smoke


def test_hwio_keeps_what_a_kernel_means():
    kernel = np.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5)
    turned = hwio(kernel)
    assert turned.shape == (5, 5, 3, 2)
    assert turned[4, 1, 2, 0] == kernel[0, 2, 4, 1]
    assert turned.flags.c_contiguous


def test_a_residual_block_adds_its_input_only_where_the_shapes_agree():
    x = np.ones((1, 8, 8, 4), np.float32)
    for features, stride, added in ((4, 1, True), (6, 1, False), (4, 2, False)):
        block = InvertedResidual(features, 3, stride, expand=2, same=True, epsilon=1e-3)
        variables = jax.tree.map(np.zeros_like, random_variables(block, x, seed=0))
        variables["batch_stats"] = jax.tree.map(np.ones_like, variables["batch_stats"])
        y = block.apply(variables, x)
        assert y.shape == (1, 8 // stride, 8 // stride, features)
        assert np.asarray(y).any() == added


def test_random_variables_are_float32_and_take_a_dict_as_keywords():
    class Sum(nn.Module):
        @nn.compact
        def __call__(self, a, b):
            return nn.Dense(3)(a) + nn.Embed(5, 3)(b)

    example = {"a": np.zeros((1, 2), np.float32), "b": np.zeros(1, np.int32)}
    variables = random_variables(Sum(), example, seed=0)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    assert Sum().apply(variables, **example).shape == (1, 3)


def test_random_kernels_keep_the_scale_of_their_input():
    x = np.random.default_rng(0).standard_normal((1, 16, 16, 64), np.float32)
    layer = ConvNorm(64, 3, padding="SAME")
    assert 1 < np.std(layer.apply(random_variables(layer, x, seed=0), x)) < 2
