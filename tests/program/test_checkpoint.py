"""program.checkpoint: models whose parameters come from files, whole and damaged."""

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from missile_jax import CheckpointError, ConfigError, Model, Runtime
from missile_jax.program import entry
from missile_jax.program.bind import bind

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


def save_safetensors(path, tree):
    path = path.with_suffix(".safetensors")
    save_file({k: np.asarray(v) for k, v in flatten_dict(tree, sep="/").items()}, path)
    return path


def save_entry(path, tree):
    entry.write(path, "net", tree)
    return path


FORMS = {"orbax": save, "safetensors": save_safetensors, "entry": save_entry}


def other_dtype(params):
    params["layers_2"]["bias"] = params["layers_2"]["bias"].astype(np.float16)


def other_shape(params):
    params["layers_0"] = {"kernel": np.ones((4, 5), np.float32), "bias": np.ones(5, np.float32)}


def one_less(params):
    del params["layers_0"]["kernel"]


def one_more(params):
    params["layers_4"] = {"kernel": np.ones((3, 3), np.float32)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_dtype, r"params/layers_2/bias is float16\[3\], the model's is float32\[3\]$"),
        (other_shape, r"params/layers_0/bias is float32\[5\], .*; params/layers_0/kernel is fl"),
        (one_less, "params/layers_0/kernel is missing$"),
        (one_more, "the model has no params/layers_4/kernel$"),
    ],
)
def test_another_models_parameters_are_refused_by_name(
    tmp_path, runtime, variables, form, change, message
):
    runtime.load("good", model=NET, params=variables, example=X)
    params = {name: dict(leaves) for name, leaves in variables["params"].items()}
    change(params)
    path = FORMS[form](tmp_path / "ckpt", {"params": params})
    message = rf"model 'bad': the checkpoint at {path} does not go with it: {message}"
    with pytest.raises(CheckpointError, match=message):
        runtime.load("bad", model=NET, checkpoint=path, example=X)
    assert runtime.models() == ["good"]
    runtime.infer("good", X)


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_that_is_cut_short_is_refused(tmp_path, runtime, variables, form):
    runtime.load("good", model=NET, params=variables, example=X)
    path = FORMS[form](tmp_path / "ckpt", variables)
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size * (p.name != entry.MANIFEST))
    largest.write_bytes(largest.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=rf"model 'bad': the checkpoint at {path} "):
        runtime.load("bad", model=NET, checkpoint=path, example=X)
    runtime.infer("good", X)


def test_where_there_is_no_checkpoint(tmp_path, runtime):
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (empty, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match=r"model 'bad'.*checkpoint at"):
            runtime.load("bad", model=NET, checkpoint=path, example=X)


def test_a_flipped_bit_of_a_safetensors_header_is_found(tmp_path, variables):
    path = save_safetensors(tmp_path / "ckpt", variables)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for bit in range(0, 8 * header, 41):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="model 'bad': the checkpoint at"):
            bind(Model("bad", NET, checkpoint=path, example=X))


def test_a_flipped_bit_of_an_entry_is_found(tmp_path, runtime):
    wide = nn.Dense(4096)
    path = save_entry(tmp_path / "ckpt", wide.init(jax.random.key(0), X))
    largest = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    flipped = bytearray(largest.read_bytes())
    flipped[len(flipped) // 2] ^= 16
    largest.write_bytes(flipped)
    message = f"model 'bad': the checkpoint at {path} is damaged: .*params/kernel"
    with pytest.raises(CheckpointError, match=message):
        runtime.load("bad", model=wide, checkpoint=path, example=X)


class Wants(nn.Module):
    """Cannot be initialised from its example: it wants a random key of its own."""

    @nn.compact
    def __call__(self, x):
        if self.is_initializing():
            x = x + jax.random.uniform(self.make_rng("noise"))
        return nn.Dense(2)(x)


def test_a_module_that_its_example_does_not_initialise_is_not_compared(tmp_path, runtime):
    variables = Wants().init({"params": jax.random.key(0), "noise": jax.random.key(1)}, X)
    runtime.load("net", model=Wants(), checkpoint=save(tmp_path / "ckpt", variables), example=X)
    np.testing.assert_allclose(runtime.infer("net", X), Wants().apply(variables, X), atol=1e-6)


def test_other_collections_than_the_modules_are_let_through(tmp_path, runtime, variables):
    more = {**variables, "step": {"count": np.ones(1, np.int32)}}
    runtime.load("net", model=NET, checkpoint=save(tmp_path / "ckpt", more), example=X)
    np.testing.assert_allclose(runtime.infer("net", X), NET.apply(variables, X), atol=1e-6)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"kernel": np.ones((4, 3), np.float32)}, "bias is missing$"),
        ({"kernel": np.ones((4, 3), np.float16), "bias": np.ones(3, np.float32)}, "is float16"),
        ({"kernel": np.ones((4, 3), np.float32), "scale": np.ones(3)}, "the model has no scale$"),
    ],
)
def test_an_nnx_module_takes_its_own_parameters_only(tmp_path, runtime, tree, message):
    net = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    with pytest.raises(CheckpointError, match=f"model 'net': .*does not go with it: .*{message}"):
        runtime.load("net", model=net, checkpoint=save(tmp_path / "ckpt", tree), example=X)


def test_params_and_checkpoint_exclude_each_other(variables):
    with pytest.raises(ConfigError, match="params= or checkpoint=, not both"):
        Model("net", NET, variables, checkpoint="somewhere", example=X)
