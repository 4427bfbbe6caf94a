"""What is said in another way when compiled computes the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

from missile_jax.program.lower import rule_for
from missile_jax.program.trace import interpret, leave


@settings(max_examples=15)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.sampled_from(["SAME", "VALID", ((2, 0), (0, 1)), ((-1, 1), (0, 0))]),
    layout=st.sampled_from([("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")]),
)
def test_depthwise_convolutions_as_shifted_products(kernel, strides, dilation, padding, layout):
    rng = np.random.default_rng(0)
    x = {"N": 2, "H": 6, "W": 5, "C": 3}
    w = {"H": kernel[0], "W": kernel[1], "I": 1, "O": 3}
    lhs, rhs = (
        rng.standard_normal([sizes[d] for d in dims]).astype(np.float32)
        for sizes, dims in ((x, layout[0]), (w, layout[1]))
    )

    def fn(lhs, rhs):
        return lax.conv_general_dilated(
            lhs,
            rhs,
            strides,
            padding,
            rhs_dilation=dilation,
            dimension_numbers=layout,
            feature_group_count=3,
        )

    closed = jax.make_jaxpr(fn)(lhs, rhs)
    assume(all(closed.out_avals[0].shape))

    def lowered(lhs, rhs):
        return interpret(closed.jaxpr, closed.consts, (lhs, rhs), rule_for("cpu"))[0]

    names = [e.primitive.name for e in jax.make_jaxpr(lowered)(lhs, rhs).eqns]
    assert "conv_general_dilated" not in names
    np.testing.assert_allclose(jax.jit(lowered)(lhs, rhs), jax.jit(fn)(lhs, rhs), atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_floats_are_summed_as_exactly_as_before(dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((1, 9, 9, 16)), dtype)
    w = jnp.asarray(rng.standard_normal((5, 5, 1, 16)), dtype)

    def fn(x, w):
        dims = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=dims, feature_group_count=16
        )

    closed = jax.make_jaxpr(fn)(x, w)
    lowered = jax.jit(lambda *args: interpret(closed.jaxpr, (), args, rule_for("cpu"))[0])
    exact = fn(x.astype(jnp.float32), w.astype(jnp.float32))

    def error(got):
        assert got.dtype == dtype
        return np.max(np.abs(np.asarray(got, np.float32) - exact))

    assert error(lowered(x, w)) <= 1.01 * error(jax.jit(fn)(x, w))


@pytest.mark.parametrize(("groups", "out"), [(1, 4), (2, 4), (4, 8)])
def test_other_convolutions_stay(groups, out):
    x = jax.ShapeDtypeStruct((1, 5, 5, 4), np.float32)
    w = jax.ShapeDtypeStruct((3, 3, 4 // groups, out), np.float32)

    def fn(x, w):
        dims = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=dims, feature_group_count=groups
        )

    (eqn,) = jax.make_jaxpr(fn)(x, w).eqns
    assert rule_for("cpu")(eqn, []) is None


def test_other_platforms_get_programs_as_they_are():
    assert rule_for("gpu") is leave
