import numpy as np
import pytest

from missile_jax.models import imagenet_labels, probabilities
from missile_jax.models.labels import best


def test_there_is_one_label_a_class_in_imagenets_order():
    labels = imagenet_labels()
    assert len(labels) == 1000
    assert (labels[0], labels[285], labels[967]) == ("tench", "Egyptian Mau", "espresso")


def test_probabilities_sum_to_one_and_survive_large_logits():
    rows = probabilities(np.array([[1000.0, 1000.0, -1000.0], [0.0, np.log(3), -np.inf]]))
    np.testing.assert_allclose(rows, [[0.5, 0.5, 0], [0.25, 0.75, 0]])


def test_best_names_the_likeliest_class():
    logits = np.zeros((1, 1000))
    logits[0, 967] = 12
    assert best(logits) == "espresso 0.99"


def test_best_wants_one_row():
    with pytest.raises(ValueError, match="unpack"):
        best(np.zeros((2, 1000)))
