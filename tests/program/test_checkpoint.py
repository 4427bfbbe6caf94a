"""program.checkpoint: models whose parameters come from files, whole and damaged."""

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from missile_jax import ConfigError, Model, ModelLoadError, Runtime

X = np.linspace(-1, 1, 4, dtype=np.float32)[None]
NET = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)])


@pytest.fixture
def variables():
    return NET.init(jax.random.key(1), X)


@pytest.fixture
def runtime():
    with Runtime() as runtime:
        yield runtime


def save(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
    return path


def test_an_orbax_checkpoint(tmp_path, runtime, variables):
    runtime.load("net", model=NET, checkpoint=save(tmp_path / "ckpt", variables), example=X)
    np.testing.assert_allclose(runtime.infer("net", X), NET.apply(variables, X), atol=1e-6)


def test_an_orbax_checkpoint_of_an_nnx_module(tmp_path, runtime):
    saved, fresh = nnx.Linear(4, 3, rngs=nnx.Rngs(1)), nnx.Linear(4, 3, rngs=nnx.Rngs(2))
    path = save(tmp_path / "ckpt", nnx.to_pure_dict(nnx.state(saved)))
    runtime.load("net", model=fresh, checkpoint=path, example=X)
    np.testing.assert_allclose(runtime.infer("net", X), saved(X), atol=1e-6)
    assert not np.allclose(fresh(X), saved(X))


@pytest.mark.parametrize("separator", [".", "/"])
def test_a_safetensors_file(tmp_path, runtime, variables, separator):
    flat = {k: np.asarray(v) for k, v in flatten_dict(variables, sep=separator).items()}
    save_file(flat, tmp_path / "net.safetensors")
    path = str(tmp_path / "net.safetensors")
    runtime.load("net", model=NET, checkpoint=path, example=X)
    np.testing.assert_allclose(runtime.infer("net", X), NET.apply(variables, X), atol=1e-6)


def test_damaged_checkpoints_hurt_their_own_model_only(tmp_path, runtime, variables):
    runtime.load("good", model=NET, params=variables, example=X)
    flat = {k: np.asarray(v) for k, v in flatten_dict(variables, sep=".").items()}
    whole = tmp_path / "whole.safetensors"
    save_file(flat, whole)
    short = tmp_path / "short.safetensors"
    short.write_bytes(whole.read_bytes()[:-8])
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (short, empty, tmp_path / "missing"):
        with pytest.raises(ModelLoadError, match=r"model 'bad'.*checkpoint at"):
            runtime.load("bad", model=NET, checkpoint=path, example=X)
    assert runtime.models() == ["good"]
    runtime.infer("good", X)


def test_the_parameters_of_another_model_are_refused(tmp_path, runtime):
    other = nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(3)]).init(jax.random.key(0), X)
    path = save(tmp_path / "ckpt", other)
    with pytest.raises(ModelLoadError, match=r"model 'net' could not be loaded: .*\(4, 5\)"):
        runtime.load("net", model=NET, checkpoint=path, example=X)


def test_params_and_checkpoint_exclude_each_other(variables):
    with pytest.raises(ConfigError, match="params= or checkpoint=, not both"):
        Model("net", NET, variables, checkpoint="somewhere", example=X)
