import jax
import pytest
import reference

from missile_jax.models import fetch, imagenet_labels, probabilities
from missile_jax.models.unpickle import load_torch


@pytest.mark.parametrize("photo", ["coffee", "chelsea", "china"])
def test_agrees_with_a_numpy_reference_on_the_published_tensors(zoo, run, photos, photo):
    x = zoo("efficientnet").preprocess(photos[photo])[0]
    expected = reference.efficientnet(x, load_torch(fetch("efficientnet")))
    assert reference.relative_error(run("efficientnet", photos[photo])[0], expected) <= 1e-4


@pytest.mark.parametrize(
    ("photo", "label", "probability"),
    [
        ("coffee", "espresso", 0.95),
        ("chelsea", "a cat having a striped coat", 0.39),
        ("chelsea", "Egyptian Mau", 0.36),
        ("china", "palace", 0.32),
    ],
)
def test_sees_what_is_on_the_photo(run, photos, photo, label, probability):
    (row,) = probabilities(run("efficientnet", photos[photo]))
    assert row[imagenet_labels().index(label)] == pytest.approx(probability, abs=0.02)


def test_answers_in_words(zoo, run, photos):
    assert zoo("efficientnet").answer(run("efficientnet", photos["coffee"])).startswith("espresso ")


def test_has_the_published_number_of_parameters(zoo):
    leaves = jax.tree.leaves(zoo("efficientnet").variables["params"])
    assert sum(leaf.size for leaf in leaves) == 4_652_008
