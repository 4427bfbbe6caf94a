"""Tracing: calls are opened, closed-over arrays become parameters, results have their own value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend import core as jex

from missile_jax.program.trace import bind_eqn, flat_jaxpr, rewrite, trace

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def run(traced, params, inputs):
    leaves = [*jax.tree.leaves(params), *traced.hoisted, *jax.tree.leaves(inputs)]
    return jax.tree.unflatten(traced.out_tree, jex.jaxpr_as_fun(traced.jaxpr)(*leaves))


def primitives(traced):
    return [eqn.primitive.name for eqn in traced.jaxpr.eqns]


@jax.custom_jvp
def twice(x):
    return x * jnp.float32(2)


twice.defjvp(lambda primals, tangents: (twice(*primals), tangents[0]))


@jax.custom_vjp
def thrice(x):
    return x * jnp.float32(3)


thrice.defvjp(lambda x: (thrice(x), None), lambda _, g: (g,))


@pytest.mark.parametrize(
    "wrap",
    [
        jax.jit,
        jax.checkpoint,
        lambda f: jax.jit(jax.checkpoint(jax.jit(f))),
        lambda f: lambda x: twice(f(x)),
        lambda f: lambda x: thrice(f(x)),
        lambda f: jax.named_call(f, name="inner"),
    ],
    ids=["jit", "remat", "nested", "custom_jvp", "custom_vjp", "named_call"],
)
def test_calls_are_opened(wrap):
    fn = wrap(lambda x: jnp.sin(x) + jnp.float32(1))
    traced = trace(lambda params, x: fn(x), {}, X)
    assert set(primitives(traced)) <= {"sin", "add", "mul"}
    np.testing.assert_array_equal(run(traced, {}, X), jax.jit(fn)(X))


def test_closed_over_arrays_become_parameters():
    outer, inner = np.full((3,), 2, np.float32), jnp.full((2, 3), 5, jnp.float32)
    fn = jax.jit(lambda x: x * inner)
    traced = trace(lambda w, x: fn(x * w) + lax.broadcast(outer, (2,)), X, X)
    assert not traced.jaxpr.consts
    assert traced.num_params == 3
    assert {float(np.asarray(h).ravel()[0]) for h in traced.hoisted} == {2.0, 5.0}

    def traced_again(value):
        fn = jax.jit(lambda x: x * value)
        return trace(lambda w, x: fn(x), (), X).jaxpr

    assert str(traced_again(inner)) == str(traced_again(inner + 1))


def test_a_loop_body_closes_over_nothing():
    table = jnp.arange(3, dtype=jnp.float32)

    def fn(_, x):
        return lax.scan(lambda c, row: (c + row * table, row), table, x)

    traced = trace(fn, (), X)
    assert len(traced.hoisted) >= 1
    assert all(not e.params["jaxpr"].consts for e in traced.jaxpr.eqns if "jaxpr" in e.params)
    got, want = run(traced, (), X), fn((), X)
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.smoke
def test_results_that_nothing_computes_get_a_value_of_their_own():
    def fn(params, x):
        y = jnp.tanh(x)
        return {"input": x, "param": params, "literal": 3.0, "twice": (y, y), "again": [x]}

    traced = trace(fn, X, X)
    made = {v for eqn in traced.jaxpr.eqns for v in eqn.outvars}
    outvars = traced.jaxpr.jaxpr.outvars
    assert set(outvars) <= made
    assert len(set(outvars)) == len(outvars)
    got = run(traced, X, X)
    jax.tree.map(np.testing.assert_array_equal, got, fn(X, X))


def test_errors_are_the_functions_own():
    def fn(_, x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        trace(fn, (), X)


def test_bfloat16_literals_keep_their_dtype():
    scale = jax.jit(lambda x, s: x * s)
    traced = trace(lambda _, x: scale(jax.nn.gelu(x.astype(jnp.bfloat16)), jnp.bfloat16(2)), (), X)
    assert run(traced, (), X).dtype == jnp.bfloat16


def test_rewriting_replaces_one_equation_and_keeps_the_rest():
    traced = trace(lambda _, x: jnp.cos(jnp.sin(x)), (), X)

    def rule(eqn, operands):
        return [operands[0] * jnp.float32(2)] if eqn.primitive.name == "sin" else None

    rewritten = rewrite(traced.jaxpr, rule)
    assert [e.primitive.name for e in rewritten.eqns] == ["mul", "cos"]


def test_an_equation_is_bound_with_changed_parameters():
    (eqn,) = trace(lambda _, x: lax.reduce_sum_p.bind(x, axes=(1,)), (), X).jaxpr.eqns
    assert bind_eqn(eqn, [X])[0].shape == (2,)
    assert bind_eqn(eqn, [X], axes=(0,))[0].shape == (3,)


def test_a_flat_jaxpr_takes_reads_and_gives_writes():
    first, second = jax.make_jaxpr(lambda x: jnp.cos(jnp.sin(x)))(X).eqns
    part = flat_jaxpr([second], first.outvars, second.outvars)
    np.testing.assert_allclose(jex.jaxpr_as_fun(part)(X)[0], np.cos(X), rtol=1e-6)
