"""Keys: equal programs have one, any difference that matters makes another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missile_jax.program.signature import Signature, eqn_signature
from missile_jax.program.trace import trace

X = jax.ShapeDtypeStruct((2, 3), jnp.float32)


def key(fn, *args):
    return Signature().add(jax.make_jaxpr(fn)(*(args or (X,)))).digest()


def nested(x):
    return jax.jit(lambda y: jax.nn.relu(y) * jnp.float32(2))(x)


@pytest.mark.smoke
def test_the_same_function_traced_twice_has_one_key():
    assert key(nested) == key(nested)
    assert key(lambda x: jnp.sin(x)) == key(lambda y: jnp.sin(y))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (lambda x: jnp.sin(x), lambda x: jnp.cos(x)),
        (lambda x: x * jnp.float32(2), lambda x: x * jnp.float32(3)),
        (lambda x: x * jnp.float32(0), lambda x: x * jnp.float32(-0.0)),
        (lambda x: x.sum(0), lambda x: x.sum(1)),
        (lambda x: x - x.T.T * x, lambda x: x.T.T * x - x),
        (lambda x: (x, jnp.sin(x)), lambda x: (jnp.sin(x), x)),
        (lambda x: x + np.ones((2, 3), np.float32), lambda x: x + np.zeros((2, 3), np.float32)),
        (
            lambda x: jax.lax.scan(lambda c, r: (c + r, r), x[0], x),
            lambda x: jax.lax.scan(lambda c, r: (c - r, r), x[0], x),
        ),
    ],
)
def test_a_difference_makes_another_key(a, b):
    assert key(a) != key(b)


def test_shapes_and_dtypes_belong_to_the_key():
    shapes = [(2, 3), (3, 2)]
    keys = {
        key(jnp.sin, jax.ShapeDtypeStruct(s, d)) for s in shapes for d in (jnp.float32, jnp.float16)
    }
    assert len(keys) == 4


def test_functions_are_told_apart_and_kept_alive():
    def call(host):
        shape = jax.ShapeDtypeStruct((2, 3), jnp.float32)
        return trace(lambda _, x: jax.pure_callback(host, shape, x), (), X).jaxpr

    one, other = (Signature().add(call(host)) for host in (np.sin, np.cos))
    assert one.digest() != other.digest()
    assert one.keep


def test_an_equation_has_a_key_by_itself():
    first, second, third = trace(lambda _, x: jnp.sin(jnp.sin(x[:1])), (), X).jaxpr.eqns
    assert eqn_signature(second) == eqn_signature(third) != eqn_signature(first)
