"""Which of some hypotheses a page's colours follow: its state, found by a few timings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from missile_jax.coloring.labels import half
from missile_jax.coloring.maps import PAGE_BYTES
from missile_jax.coloring.oracle import SET_LIMIT
from missile_jax.coloring.questions import Questions

# Probes that a page may take, and how sure its state must be.
PAGE_PROBES = 64
_SURE = 1e-8
# Granules looked at for the one that tells most.
_LOOKED_AT = 24
_CHECKS = 3


def find_hypothesis(
    questions: Questions, page: int, colours: np.ndarray, references: Sequence[int]
) -> int | None:
    """The row of `colours` [H, G] that page number `page` follows, or None if it follows none.

    references: an address of each channel, in other pages or this. Takes at most PAGE_PROBES.
    """
    start = questions.probes.spent
    granule_bytes = questions.granule_bytes
    distinct, first = np.unique(colours, axis=0, return_index=True)
    odds = np.zeros(len(distinct))
    while True:
        likely = np.exp(odds - odds.max())
        likely /= likely.sum()
        best = int(likely.argmax())
        if 1 - likely[best] <= _SURE:
            break
        if questions.probes.spent - start >= PAGE_PROBES - 2 * _CHECKS:
            return None
        granule, chosen = _best_question(questions, distinct, likely, len(references))
        yes = questions.share_once(
            [references[i] for i in chosen], [page * PAGE_BYTES + granule * granule_bytes]
        )
        says_yes = np.isin(distinct[:, granule], chosen)
        odds += np.where(says_yes == yes, questions.weight, -questions.weight) / 2
    row = distinct[best]
    spent = questions.probes.spent - start
    fits = _fits(questions, page, row, references, PAGE_PROBES - spent)
    return int(first[best]) if fits else None


def _best_question(
    questions: Questions, colours: np.ndarray, likely: np.ndarray, channels: int
) -> tuple[int, list[int]]:
    """A granule, and the channels to load, for which yes is about as likely as no."""
    best = (2.0, 0, [0])
    for granule in questions.rng.integers(colours.shape[1], size=_LOOKED_AT).tolist():
        mass = np.bincount(colours[:, granule], weights=likely, minlength=channels)
        chosen = half(mass, questions.calibration.loaded_limit)
        best = min(best, (abs(0.5 - mass[chosen].sum()), granule, chosen))
    return best[1], best[2]


def _fits(
    questions: Questions, page: int, row: np.ndarray, references: Sequence[int], probes: int
) -> bool:
    """Whether sets of the page's granules are where `row` says: in none of the other channels."""
    start = questions.probes.spent
    channels = len(references)
    for _ in range(_CHECKS):
        loaded = questions.rng.permutation(channels)[
            : min(max(1, channels // 2), questions.calibration.loaded_limit)
        ]
        apart = np.flatnonzero(~np.isin(row, loaded))
        spread = questions.rng.permutation(apart)[: min(SET_LIMIT, 2 * channels)]
        crowd = int(np.bincount(row[spread]).max())
        odds = 0
        # Two answers more for one side than for the other.
        while abs(odds) < 2:
            if questions.probes.spent - start >= probes:
                return False
            yes = questions.share_once(
                [references[i] for i in loaded],
                [page * PAGE_BYTES + int(g) * questions.granule_bytes for g in spread],
                crowd,
            )
            odds += 1 if yes else -1
        if odds > 0:
            return False
    return True
