"""Bytes and operations of compiled segments, and which parameters granules could hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from missile_jax.program.traffic import model_traffic
from missile_jax.spec import Model

WIDE, DEEP = 256, 6


def mlp(params, x):
    for weight in params:
        x = jnp.tanh(x @ weight)
    return x


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(WIDE, WIDE)).astype(np.float32) for _ in range(DEEP)]


def model(fn, params, example) -> Model:
    return Model("m", fn, params, example=example)


@pytest.mark.smoke
def test_each_segment_tells_its_bytes_and_operations(weights):
    example = np.zeros((1, WIDE), np.float32)
    device = jax.devices()[0]
    found = model_traffic(model(mlp, weights, example), device, DEEP)
    assert len(found) > 1
    weight_bytes = WIDE * WIDE * 4
    reads = [read for one in found for read in one.tabled]
    assert [read.bytes for read in reads] == [weight_bytes] * DEEP
    # Batch one: two operations for each four bytes.
    assert all(read.flops_per_byte == pytest.approx(0.5, rel=0.02) for read in reads)
    assert sum(one.flops for one in found) == pytest.approx(2 * DEEP * WIDE**2, rel=0.05)
    for one in found:
        assert one.bytes >= weight_bytes * len(one.tabled)


def convolved(params, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(x, params["window"], (1, 1), "SAME", dimension_numbers=numbers)
    return lax.conv_general_dilated(x, params["point"], (1, 1), "SAME", dimension_numbers=numbers)


def test_of_convolutions_only_those_of_one_pixel_are_tabled():
    params = {
        "window": np.ones((3, 3, 8, 16), np.float32),
        "point": np.ones((1, 1, 16, 4), np.float32),
    }
    example = np.zeros((1, 6, 6, 8), np.float32)
    found = model_traffic(model(convolved, params, example), jax.devices()[0], 1)
    reads = [read for one in found for read in one.tabled]
    assert [read.bytes for read in reads] == [16 * 4 * 4]


def reshaped(params, x):
    return x @ params.reshape(4, 8).T + params[0]


def test_a_parameter_is_followed_through_what_only_moves_it():
    found = model_traffic(
        model(reshaped, np.ones((32,), np.float32), np.zeros((2, 8), np.float32)),
        jax.devices()[0],
        1,
    )
    assert [read.bytes for one in found for read in one.tabled] == [32 * 4]
