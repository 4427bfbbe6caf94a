"""Which of some hypotheses a page's colours follow: its state, found by a few timings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from missile_jax.coloring.labels import half
from missile_jax.coloring.maps import PAGE_BYTES, PermutedMap, XorMap
from missile_jax.coloring.oracle import SET_LIMIT
from missile_jax.coloring.questions import Questions
from missile_jax.coloring.solved import Solved
from missile_jax.errors import RecoveryError

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
        if questions.probes.spent - start >= PAGE_PROBES - 5 * _CHECKS:
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


def find_state(questions: Questions, page: int, solved: Solved) -> int:
    """The state of page number `page`, by at most PAGE_PROBES.

    Raises RecoveryError if it is in none.
    """
    questions.probes.doing = f"finding the state of page {page}"
    colours = np.stack([solved.channel_map.colours(s) for s in range(solved.channel_map.states)])
    state = find_hypothesis(questions, page, colours, solved.references)
    if state is None:
        raise RecoveryError(
            f"page {page} follows none of the map's {len(colours)} states, by {PAGE_PROBES} probes"
        )
    return state


def find_first_state(questions: Questions, channel_map: XorMap | PermutedMap) -> Solved:
    """References and state of page 0 for a map known from before, where no address is known yet.

    Channels then have no numbers but those that the map gives them: only which granules of the page
    share one can be asked. States that differ in numbers alone are taken for one.
    """
    questions.probes.doing = "finding the state of page 0"
    granule_bytes = channel_map.granule_bytes
    colours = np.stack([channel_map.colours(state) for state in range(channel_map.states)])
    patterns = np.stack([_renumbered(row) for row in colours])
    distinct, first = np.unique(patterns, axis=0, return_index=True)
    odds = np.zeros(len(distinct))
    limit = min(questions.calibration.loaded_limit, max(1, channel_map.channels // 2))
    for _ in range(PAGE_PROBES):
        likely = np.exp(odds - odds.max())
        likely /= likely.sum()
        if 1 - likely.max() <= _SURE:
            break
        asked = []
        for _ in range(_LOOKED_AT):
            granules = questions.rng.integers(distinct.shape[1], size=limit + 1)
            says_yes = (distinct[:, granules[:1]] == distinct[:, granules[1:]]).any(axis=1)
            asked.append((abs(0.5 - likely[says_yes].sum()), granules, says_yes))
        _, granules, says_yes = min(asked, key=lambda question: question[0])
        measured, *loaded = (granules * granule_bytes).tolist()
        yes = questions.share_once(loaded, [measured])
        odds += np.where(says_yes == yes, questions.weight, -questions.weight) / 2
    state = int(first[int(odds.argmax())])
    places = [int(np.argmax(colours[state] == c)) for c in range(channel_map.channels)]
    return Solved(channel_map, tuple(p * granule_bytes for p in places), {0: state})


def _renumbered(row: np.ndarray) -> np.ndarray:
    """Colours by the order in which they first occur."""
    _, first, inverse = np.unique(row, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.uint8)


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
    """Whether sets of granules, one of each colour, are in none of the other channels."""
    start = questions.probes.spent
    channels = len(references)
    for _ in range(_CHECKS):
        loaded = questions.rng.permutation(channels)[
            : min(max(1, channels // 2), questions.calibration.loaded_limit)
        ]
        apart = [c for c in range(channels) if c not in loaded][:SET_LIMIT]
        picks = [int(questions.rng.choice(np.flatnonzero(row == c))) for c in apart]
        addresses = [page * PAGE_BYTES + pick * questions.granule_bytes for pick in picks]
        odds = 0
        # Four answers more for one side than for the other.
        while abs(odds) < 4:
            if questions.probes.spent - start >= probes:
                return False
            yes = questions.share_once([references[i] for i in loaded], addresses)
            odds += 1 if yes else -1
        if odds > 0:
            return False
    return True
