"""All model forms become one function."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from missile_jax import Model, ModelLoadError
from missile_jax.program.bind import bind, parameter_leaves

X = np.ones((1, 3), np.float32)


class Pair(nn.Module):
    @nn.compact
    def __call__(self, a, b):
        return nn.Dense(2, name="dense")(a) - b


def linen(example):
    module = Pair()
    return Model("m", module, module.init(jax.random.key(0), X, X[:, :2]), example=example)


@pytest.mark.parametrize(
    "inputs", [{"a": X, "b": X[:, :2]}, (X, X[:, :2])], ids=["keywords", "positions"]
)
def test_linen_takes_a_dict_as_keywords_and_a_tuple_as_positions(inputs):
    fn, params = bind(linen(inputs))
    dense = params["params"]["dense"]
    np.testing.assert_allclose(fn(params, inputs), X @ np.asarray(dense["kernel"]) - X[:, :2])


class Counted(nn.Module):
    """Counts how often it is traced, outside of what makes two modules equal."""

    width: int
    offsets: Any = (0,)
    traced: ClassVar[list[int]] = []

    @nn.compact
    def __call__(self, x):
        self.traced.append(self.width)
        return nn.Dense(self.width)(x) + np.float32(self.offsets[0])


def test_fine_tunes_of_equal_modules_are_traced_once():
    variables = Counted(2).init(jax.random.key(0), X)
    Counted.traced.clear()
    for scale in (1, 2):
        fn, params = bind(
            Model("m", Counted(2), jax.tree.map(lambda x, s=scale: s * x, variables), example=X)
        )
        np.testing.assert_allclose(
            fn(params, X), scale * (X @ variables["params"]["Dense_0"]["kernel"]), rtol=1e-6
        )
    assert Counted.traced == [2]
    fn, params = bind(Model("m", Counted(3), Counted(3).init(jax.random.key(0), X), example=X))
    assert fn(params, X).shape == (1, 3)


def test_modules_that_cannot_be_hashed_are_told_apart():
    kernel = np.ones((3, 2), np.float32)
    variables = {"params": {"Dense_0": {"kernel": kernel, "bias": np.zeros(2, np.float32)}}}
    for offset in (1.0, 5.0):
        module = Counted(2, np.array([offset]))
        fn, params = bind(Model("m", module, variables, example=X))
        np.testing.assert_allclose(fn(params, X), X @ kernel + offset)


def test_nnx_carries_its_parameters():
    module = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    fn, params = bind(Model("m", module, example=X))
    np.testing.assert_array_equal(fn(params, X), module(X))
    assert len(parameter_leaves("m", params)[0]) == 2


def test_a_function_is_taken_as_it_is():
    def fn(params, inputs):
        return inputs

    assert bind(Model("m", fn, {"w": 1}, example=X)) == (fn, {"w": 1})


@pytest.mark.parametrize(
    ("model", "params", "message"),
    [
        (Pair(), None, "needs params="),
        (nnx.Linear(1, 1, rngs=nnx.Rngs(0)), {}, "leave params out"),
        (Pair, None, "got the class Pair"),
        (7, None, "got int; allowed: a linen module"),
    ],
)
def test_wrong_forms_are_named(model, params, message):
    with pytest.raises(ModelLoadError, match=message):
        bind(Model("m", model, params, example=X))


def test_parameters_are_arrays():
    with pytest.raises(ModelLoadError, match="params hold a str"):
        parameter_leaves("m", {"w": jnp.ones(1), "activation": "relu"})
