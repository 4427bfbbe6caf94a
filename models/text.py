"""Sentences to tokens, as MiniLM wants them. Axes: B rows, L positions."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from missile_jax.errors import InvalidInputError
from missile_jax.models.weights import fetch

SENTENCES = (
    "A cat is sleeping on the sofa.",
    "A kitten naps on the couch.",
    "The stock market fell sharply on Friday.",
    "Share prices dropped at the end of the week.",
    "She boiled pasta for dinner.",
    "The rocket lifted off from the launch pad.",
    "He repaired the engine of an old motorcycle.",
    "The museum opens at nine in the morning.",
)


@functools.cache
def tokenizer() -> Tokenizer:
    """The published tokenizer, its own padding and truncation switched off."""
    made = Tokenizer.from_file(str(fetch("minilm-tokenizer")))
    made.no_padding()
    made.no_truncation()
    return made


def tokens(sentences: Sequence[str], length: int) -> dict[str, np.ndarray]:
    """{"input_ids": int32 [B, length], "attention_mask": int32 [B, length]}, zeros at the end.

    Raises InvalidInputError if a sentence is no string or has more than `length` tokens.
    """
    for sentence in sentences:
        if not isinstance(sentence, str):
            raise InvalidInputError(f"a {type(sentence).__name__} was given; allowed: a sentence")
    ids = np.zeros((len(sentences), length), np.int32)
    mask = np.zeros_like(ids)
    for row, encoding in enumerate(tokenizer().encode_batch(list(sentences))):
        count = len(encoding.ids)
        if count > length:
            raise InvalidInputError(f"sentence {row} has {count} tokens; allowed: at most {length}")
        ids[row, :count] = encoding.ids
        mask[row, :count] = 1
    return {"input_ids": ids, "attention_mask": mask}
