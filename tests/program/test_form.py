"""The form in which parameters are kept."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.layout import Format, Layout
from jax.extend import core as jex

from missile_jax.program.compile import wanted_orders
from missile_jax.program.form import Form
from missile_jax.program.trace import Traced, trace

RNG = np.random.default_rng(0)


def values(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.asarray(RNG.normal(size=shape), dtype)


def dense(params: dict[str, Any], x: Any) -> Any:
    y = jnp.tanh(x @ params["large"] + params["b"][None])
    return y * params["scale"] + params["a"][2] + params["b"][None]


DENSE = {
    "a": values(3),
    "b": values(128),
    "large": values(64, 128),
    "scale": values(),
    "unused": values(5),
}


def row_major(leaves: list[Any]) -> list[tuple[int, ...]]:
    return [tuple(range(len(leaf.shape))) for leaf in leaves]


def kept(
    fn: Any, params: Any, x: Any, orders: list[tuple[int, ...]] | None = None
) -> tuple[Form, Traced, list[Any]]:
    leaves = jax.tree.leaves(params)
    traced = trace(fn, params, x)
    form = Form.of(traced, leaves, orders or row_major(leaves))
    return form, form.taken_by(traced), form.arrays(leaves)


def run(traced: Traced, arrays: list[Any], x: Any) -> list[Any]:
    args = [*arrays, *traced.hoisted, *jax.tree.leaves(x)]
    return jax.jit(jex.jaxpr_as_fun(traced.jaxpr))(*args)


def test_small_ones_lie_in_the_order_of_their_use_and_large_ones_by_themselves() -> None:
    form, traced, arrays = kept(dense, DENSE, values(2, 64))
    names = sorted(DENSE)
    assert [[names[i] for i in group] for group in form.members] == [
        ["large"],
        ["unused"],
        ["b", "scale", "a"],
    ]
    assert [a.shape for a in arrays] == [(64, 128), (5,), (132,)]
    assert traced.num_params == 3 == len(traced.jaxpr.in_avals) - 1
    want = [*DENSE["b"], DENSE["scale"], *DENSE["a"]]
    assert arrays[2].tolist() == [float(v) for v in want]


def test_the_program_is_the_same() -> None:
    x = values(2, 64)
    _, traced, arrays = kept(dense, DENSE, x)
    (got,) = run(traced, arrays, x)
    assert np.array_equal(got, jax.jit(dense)(DENSE, x))


def test_a_parameter_that_is_returned_comes_out_whole() -> None:
    params = {"a": values(3, 2), "b": values(4)}

    def fn(p: Any, x: Any) -> Any:
        return p["a"], p["b"] + x, p["a"]

    x = values(1)
    _, traced, arrays = kept(fn, params, x)
    assert len(arrays) == 1
    first, summed, again = run(traced, arrays, x)
    assert np.array_equal(first, params["a"])
    assert np.array_equal(again, params["a"])
    assert np.array_equal(summed, params["b"] + x)


def test_operands_of_loops_and_branches_are_read_too() -> None:
    params = {"steps": values(6, 4), "bias": values(4)}

    def fn(p: Any, x: Any) -> Any:
        def step(carry: Any, row: Any) -> Any:
            return carry * row + p["bias"], carry.sum()

        last, sums = lax.scan(step, x, p["steps"])
        return lax.cond(sums[0] > 0, lambda v: v + p["bias"], lambda v: v - p["bias"], last)

    x = values(4)
    _, traced, arrays = kept(fn, params, x)
    assert len(arrays) == 1
    (got,) = run(traced, arrays, x)
    np.testing.assert_allclose(got, fn(params, x), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_each_dtype_has_an_array_of_its_own(dtype: Any) -> None:
    params = [values(2), values(2, dtype=dtype), values(3), values(3, dtype=dtype)]

    def fn(p: Any, x: Any) -> Any:
        return p[0].sum() * x + p[2].sum() + (p[1].sum() + p[3].sum()).astype(x.dtype)

    form, traced, arrays = kept(fn, params, values(2))
    assert form.members == ((0, 2), (1, 3))
    assert [a.dtype for a in arrays] == [np.dtype(np.float32), np.dtype(dtype)]
    x = values(2)
    (got,) = run(traced, arrays, x)
    np.testing.assert_allclose(got, jax.jit(fn)(params, x), rtol=1e-6)


def test_what_is_no_floating_point_or_empty_or_alone_stays_as_it_is() -> None:
    params = {
        "alone": values(3),
        "empty": values(0),
        "ids": np.arange(4),
        "key": jax.random.key(0),
    }

    def fn(p: Any, x: Any) -> Any:
        noise = jax.random.normal(p["key"], (3,))
        return x + p["alone"] + p["ids"].sum().astype(x.dtype) + p["empty"].sum() + noise

    form, _, arrays = kept(fn, params, values(3))
    assert form.members == ((0,), (1,), (2,), (3,))
    assert all(a is b for a, b in zip(arrays, jax.tree.leaves(params), strict=True))


def test_a_pack_is_closed_before_it_takes_long_to_come() -> None:
    params = [values(4096) for _ in range(20)]  # 16 KiB each

    def fn(p: Any, x: Any) -> Any:
        return sum(x * leaf for leaf in p)

    form, _, arrays = kept(fn, params, values(4096))
    assert [len(group) for group in form.members] == [8, 8, 4]
    assert max(a.nbytes for a in arrays) == 128 << 10


def test_axes_lie_as_they_are_wanted() -> None:
    params = {"b": values(4), "kernel": values(3, 3, 64, 32), "small": values(2, 3)}

    def fn(p: Any, x: Any) -> Any:
        y = lax.conv_general_dilated(
            x, p["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y.sum() * p["small"] + p["b"].sum()

    x = values(1, 5, 5, 64)
    orders = [(0,), (3, 0, 1, 2), (1, 0)]
    form, traced, arrays = kept(fn, params, x, orders)
    assert [a.shape for a in arrays] == [(32, 3, 3, 64), (10,)]
    assert np.array_equal(arrays[0], params["kernel"].transpose(3, 0, 1, 2))
    assert all(a.flags.c_contiguous for a in arrays)
    assert form.members == ((1,), (2, 0))
    assert np.array_equal(arrays[1][:6], params["small"].T.reshape(-1))
    (got,) = run(traced, arrays, x)
    np.testing.assert_allclose(got, jax.jit(fn)(params, x), rtol=1e-6)


def test_a_cpus_compiler_wants_axes_as_they_are() -> None:
    # `wanted_orders` does not ask it; so here it is asked.
    def fn(p: Any, x: Any) -> Any:
        y = lax.conv_general_dilated(
            x, p[0], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y.reshape(1, -1) @ p[1]

    params, x = [values(3, 3, 8, 16), values(400, 7)], values(1, 5, 5, 8)
    traced = trace(fn, params, x)
    device = jax.devices("cpu")[0]
    free = Format(Layout.AUTO, jax.sharding.SingleDeviceSharding(device))
    jitted = jax.jit(fn, in_shardings=([free, free], None))
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
    formats = jitted.lower(shapes, x).compile().input_formats[0][0]
    chosen = [tuple(f.layout.major_to_minor) for f in formats]
    assert chosen == row_major(params) == wanted_orders(traced.jaxpr, 2, device)
