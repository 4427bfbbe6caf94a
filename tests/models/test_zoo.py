import jax
import numpy as np
import pytest

from missile_jax import models
from missile_jax.errors import ConfigError

FAST = ["squeezenet", "mobilenet", "efficientnet", "minilm"]


def call(net, inputs):
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else ((inputs,), {})
    return jax.eval_shape(net.module.apply, net.variables, *args, **kwargs)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("MISSILE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


@pytest.mark.smoke
@pytest.mark.parametrize("name", models.names())
def test_random_weights_need_no_download_and_fit_the_example(offline, name):
    net = models.load(name, random_weights=True)
    out = call(net, net.example)
    assert (out.shape, out.dtype) == ((1, 384 if name == "minilm" else 1000), np.float32)
    leaves = jax.tree.leaves(net.variables)
    assert {(type(leaf), leaf.dtype) for leaf in leaves} == {(np.ndarray, np.dtype("float32"))}


@pytest.mark.parametrize("name", FAST)
def test_published_weights_have_the_tree_shapes_and_types_of_random_ones(zoo, name):
    def same(published, drawn):
        assert isinstance(published, np.ndarray)
        assert (published.shape, published.dtype) == (drawn.shape, drawn.dtype)
        assert published.flags.c_contiguous

    drawn = models.load(name, random_weights=True).variables
    jax.tree.map(same, zoo(name).variables, drawn)


@pytest.mark.parametrize("name", models.names())
def test_preprocess_gives_what_the_example_promises(name, photos):
    net = models.load(name, random_weights=True)
    inputs = net.preprocess("A sentence." if name == "minilm" else photos["rocket"])
    jax.tree.map(
        lambda got, example: np.testing.assert_equal(
            (got.shape, got.dtype), (example.shape, example.dtype)
        ),
        inputs,
        net.example,
    )


@pytest.mark.smoke
def test_random_weights_follow_the_seed():
    first, again, other = (
        jax.tree.leaves(models.load("squeezenet", random_weights=True, seed=seed).variables)
        for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.smoke
def test_an_unknown_name_lists_the_legal_ones():
    with pytest.raises(ConfigError, match=r"no model 'vgg'; it has: squeezenet, mobilenet, "):
        models.load("vgg")


@pytest.mark.smoke
def test_everything_that_is_exported_exists():
    assert all(hasattr(models, name) for name in models.__all__)


def test_untrained_networks_answer_too(photos):
    net = models.load("squeezenet", random_weights=True)
    logits = net.module.apply(net.variables, net.preprocess(photos["coffee"]))
    label, probability = net.answer(logits).rsplit(" ", 1)
    assert label in models.imagenet_labels()
    assert 0 < float(probability) <= 1
