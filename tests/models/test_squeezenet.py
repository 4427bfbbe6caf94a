import jax
import pytest
import reference

from missile_jax.models import fetch, imagenet_labels, probabilities
from missile_jax.models.unpickle import load_numpy


@pytest.mark.parametrize("photo", ["coffee", "chelsea", "china"])
def test_agrees_with_a_numpy_reference_on_the_published_tensors(zoo, run, photos, photo):
    x = zoo("squeezenet").preprocess(photos[photo])[0]
    expected = reference.squeezenet(x, load_numpy(fetch("squeezenet")))
    assert reference.relative_error(run("squeezenet", photos[photo])[0], expected) <= 1e-4


@pytest.mark.parametrize(
    ("photo", "label", "probability"),
    [
        ("coffee", "espresso", 0.999),
        ("chelsea", "Egyptian Mau", 0.43),
    ],
)
def test_sees_what_is_on_the_photo(run, photos, photo, label, probability):
    (row,) = probabilities(run("squeezenet", photos[photo]))
    assert row[imagenet_labels().index(label)] == pytest.approx(probability, abs=0.02)


def test_answers_in_words(zoo, run, photos):
    assert zoo("squeezenet").answer(run("squeezenet", photos["coffee"])).startswith("espresso ")


def test_has_the_published_number_of_parameters(zoo):
    leaves = jax.tree.leaves(zoo("squeezenet").variables["params"])
    assert sum(leaf.size for leaf in leaves) == 1_235_496
