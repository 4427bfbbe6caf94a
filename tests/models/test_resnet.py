import jax
import numpy as np
import pytest
import reference

from missile_jax import models
from missile_jax.errors import ConfigError
from missile_jax.models import resnet
from missile_jax.models.images import for_torchvision

SIZES = {50: 25_557_032, 101: 44_549_160, 152: 60_192_808}


def test_agrees_with_a_numpy_reference_under_torchvisions_names(photos):
    state = reference.resnet50_state(seed=7)
    x = for_torchvision(photos["coffee"])
    got = jax.jit(models.ResNet(50).apply)(resnet.from_state_dict(state), x)
    assert reference.relative_error(got[0], reference.resnet50(x[0], state)) <= 1e-4


@pytest.mark.parametrize("depth", SIZES)
def test_has_the_published_number_of_parameters(depth):
    leaves = jax.tree.leaves(resnet.init_variables(0, depth)["params"])
    assert sum(leaf.size for leaf in leaves) == SIZES[depth]


def test_random_variables_have_the_tree_and_shapes_of_converted_ones():
    drawn = resnet.init_variables(seed=0)
    converted = resnet.from_state_dict(reference.resnet50_state(seed=0))
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), drawn, converted)


def test_random_variables_follow_the_seed():
    first, again, other = (resnet.init_variables(seed) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first["params"]["fc"]["kernel"], other["params"]["fc"]["kernel"])


def test_the_logits_of_random_networks_stay_in_range(photos):
    net = models.load("resnet50", seed=3)
    logits = np.asarray(jax.jit(net.module.apply)(net.variables, net.preprocess(photos["china"])))
    assert np.isfinite(logits).all()
    assert 0.1 < logits.std() < 100


def test_refuses_an_unknown_depth():
    with pytest.raises(ConfigError, match=r"depth=18 is unknown; allowed: \[50, 101, 152\]"):
        resnet.init_variables(0, depth=18)
