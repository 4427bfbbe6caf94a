import jax
import numpy as np
import pytest
import reference
from safetensors.numpy import load_file

from missile_jax.errors import InvalidInputError
from missile_jax.models import SENTENCES, fetch, tokens

CAT, KITTEN, STOCKS, SHARES, *_ = SENTENCES


@pytest.fixture(scope="module")
def embed(zoo):
    net = zoo("minilm")
    apply = jax.jit(net.module.apply)
    return lambda inputs: np.asarray(apply(net.variables, **inputs))


@pytest.fixture(scope="module")
def embeddings(embed):
    return embed(tokens(SENTENCES, 64))


@pytest.mark.parametrize("row", range(3))
def test_agrees_with_a_numpy_reference_on_the_published_tensors(embeddings, row):
    inputs = tokens([SENTENCES[row]], 64)
    ids = inputs["input_ids"][0][inputs["attention_mask"][0] == 1]
    expected = reference.minilm(ids, load_file(fetch("minilm")))
    assert reference.relative_error(embeddings[row], expected) <= 1e-4


def test_like_sentences_are_near_and_others_are_not(embeddings):
    cosine = embeddings @ embeddings.T
    at = SENTENCES.index
    assert cosine[at(CAT), at(KITTEN)] == pytest.approx(0.74, abs=0.02)
    assert cosine[at(STOCKS), at(SHARES)] > 0.5
    assert cosine[at(CAT), at(STOCKS)] < 0.07
    assert cosine[at(KITTEN), at(SHARES)] < 0.07


def test_embeddings_have_length_one(embeddings):
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), 1, rtol=1e-6)


def test_padding_and_the_rest_of_the_batch_do_not_matter(embed, embeddings):
    alone = embed(tokens([CAT], 16))
    assert reference.relative_error(alone[0], embeddings[SENTENCES.index(CAT)]) <= 1e-5


def test_a_row_that_is_all_padding_gives_zeros(embed):
    inputs = tokens([CAT, KITTEN], 64)
    inputs["attention_mask"][1] = 0
    assert np.array_equal(embed(inputs)[1], np.zeros(384))


def test_answers_with_the_nearest_built_in_sentence(zoo, run):
    answer = zoo("minilm").answer(run("minilm", "My kitten sleeps all day."))
    assert answer == f"{KITTEN} 0.63"


def test_has_the_published_number_of_parameters_less_the_pooler(zoo):
    leaves = jax.tree.leaves(zoo("minilm").variables["params"])
    pooler = 384 * 384 + 384
    tensors = load_file(fetch("minilm"))
    published = sum(t.size for name, t in tensors.items() if not name.endswith("position_ids"))
    assert sum(leaf.size for leaf in leaves) == published - pooler == 22_565_376


def test_refuses_more_positions_than_it_was_trained_with(zoo):
    net = zoo("minilm")
    ids = np.ones((1, 513), np.int32)
    with pytest.raises(InvalidInputError, match="513 positions given; allowed: 1 to 512"):
        net.module.apply(net.variables, ids, ids)
