import numpy as np
import pytest

from missile_jax.errors import InvalidInputError
from missile_jax.models import SENTENCES, tokens
from missile_jax.models.text import tokenizer


def test_a_sentence_is_between_its_markers_and_zeros_follow():
    inputs = tokens(["hello world"], 8)
    assert inputs["input_ids"].tolist() == [[101, 7592, 2088, 102, 0, 0, 0, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.int32)}


def test_the_tokenizers_own_padding_and_truncation_are_off():
    lengths = [len(e.ids) for e in tokenizer().encode_batch(["a", "a " * 600])]
    assert lengths == [3, 602]


def test_a_batch_has_one_row_a_sentence():
    inputs = tokens(SENTENCES, 32)
    assert inputs["input_ids"].shape == (len(SENTENCES), 32)
    assert inputs["attention_mask"].sum(1).tolist() == [
        len(tokenizer().encode(s).ids) for s in SENTENCES
    ]


def test_refuses_to_cut_a_sentence():
    with pytest.raises(InvalidInputError, match="sentence 1 has 4 tokens; allowed: at most 3"):
        tokens(["hello", "hello world"], 3)
