"""Small parameters that lie in one array."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend import core as jex

from missile_jax.program.pack import Packing
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


def packed(fn: Any, params: Any, *inputs: Any) -> tuple[Packing, Traced, list[Any]]:
    leaves = jax.tree.leaves(params)
    traced = trace(fn, params, inputs[0])
    packing = Packing.of(traced, leaves)
    return packing, packing.packed(traced), packing.pack(leaves)


def run(traced: Traced, arrays: list[Any], x: Any) -> list[Any]:
    args = [*arrays, *traced.hoisted, *jax.tree.leaves(x)]
    return jax.jit(jex.jaxpr_as_fun(traced.jaxpr))(*args)


def test_small_ones_lie_in_the_order_of_their_use_and_large_ones_by_themselves() -> None:
    packing, traced, arrays = packed(dense, DENSE, values(2, 64))
    names = sorted(DENSE)
    assert [[names[i] for i in group] for group in packing.members] == [
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
    _, traced, arrays = packed(dense, DENSE, x)
    (got,) = run(traced, arrays, x)
    assert np.array_equal(got, jax.jit(dense)(DENSE, x))


def test_a_parameter_that_is_returned_comes_out_whole() -> None:
    params = {"a": values(3, 2), "b": values(4)}

    def fn(p: Any, x: Any) -> Any:
        return p["a"], p["b"] + x, p["a"]

    x = values(1)
    _, traced, arrays = packed(fn, params, x)
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
    _, traced, arrays = packed(fn, params, x)
    assert len(arrays) == 1
    (got,) = run(traced, arrays, x)
    np.testing.assert_allclose(got, fn(params, x), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_each_dtype_has_an_array_of_its_own(dtype: Any) -> None:
    params = [values(2), values(2, dtype=dtype), values(3), values(3, dtype=dtype)]

    def fn(p: Any, x: Any) -> Any:
        return p[0].sum() * x + p[2].sum() + (p[1].sum() + p[3].sum()).astype(x.dtype)

    packing, traced, arrays = packed(fn, params, values(2))
    assert packing.members == ((0, 2), (1, 3))
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

    leaves = jax.tree.leaves(params)
    traced = trace(fn, params, values(3))
    packing = Packing.of(traced, leaves)
    assert packing == Packing.apart(4)
    assert packing.packed(traced) is traced
    assert all(a is b for a, b in zip(packing.pack(leaves), leaves, strict=True))


def test_a_pack_is_closed_before_it_takes_long_to_come() -> None:
    params = [values(4096) for _ in range(20)]  # 16 KiB each

    def fn(p: Any, x: Any) -> Any:
        return sum(x * leaf for leaf in p)

    packing, _, arrays = packed(fn, params, values(4096))
    assert [len(group) for group in packing.members] == [8, 8, 4]
    assert max(a.nbytes for a in arrays) == 128 << 10
