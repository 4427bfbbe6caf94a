"""Shared by the zoo's tests: photos, and networks loaded and compiled once."""

import functools

import jax
import numpy as np
import pytest

from missile_jax import models


@pytest.fixture(scope="session")
def photos():
    return models.photos()


@pytest.fixture(scope="session")
def zoo():
    """name -> ZooModel with published weights."""
    return functools.cache(models.load)


@pytest.fixture(scope="session")
def run(zoo):
    """(name, raw item) -> numpy output [1, ...] of the compiled network."""

    @functools.cache
    def compiled(name):
        return jax.jit(zoo(name).module.apply)

    def run(name, item):
        net = zoo(name)
        inputs = net.preprocess(item)
        args, kwargs = ((), inputs) if isinstance(inputs, dict) else ((inputs,), {})
        return np.asarray(compiled(name)(net.variables, *args, **kwargs))

    return run
