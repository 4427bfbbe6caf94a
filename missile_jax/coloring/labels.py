"""Which of some known channels an address is in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from missile_jax.coloring.questions import Questions

# An address of one of 256 channels takes about 25 timings; one that is in none settles nowhere.
_MOST_ASKED = 100


def label(
    questions: Questions,
    address: int,
    references: Sequence[int],
    candidates: Sequence[int] | None = None,
    sure: float = 1e-6,
) -> int | None:
    """The i for which `address` is in the channel of ``references[i]``, or None if it is in none.

    references: an address of each channel. candidates: the channels it can be in; all if left out.
    Each timing loads about half of what is still likely (noisy binary search by the posterior).
    """
    left = np.array(range(len(references)) if candidates is None else candidates)
    odds = np.zeros(len(left))
    for _ in range(_MOST_ASKED):
        likely = np.exp(odds - odds.max())
        likely /= likely.sum()
        best = int(likely.argmax())
        if 1 - likely[best] <= sure:
            return int(left[best])
        chosen = half(likely, questions.calibration.loaded_limit)
        yes = questions.share_once([references[left[i]] for i in chosen], [address])
        odds[chosen] += questions.weight if yes else -questions.weight
    return None


def half(likely: np.ndarray, limit: int) -> list[int]:
    """Indices of about half of the probability, from the likeliest on; at most `limit` of them."""
    chosen, mass = [], 0.0
    for i in np.argsort(-likely, kind="stable").tolist():
        if len(chosen) == limit or not mass + likely[i] / 2 < 0.5:
            break
        chosen.append(i)
        mass += likely[i]
    return chosen or [int(likely.argmax())]


def bits_of(channels: int) -> int:
    """Bits that tell so many channels apart."""
    return max(1, math.ceil(math.log2(channels)))
