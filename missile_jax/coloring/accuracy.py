"""How often a map is right on addresses that its recovery has not used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from missile_jax.coloring.labels import bits_of
from missile_jax.coloring.maps import PAGE_BYTES
from missile_jax.coloring.oracle import SET_LIMIT
from missile_jax.coloring.questions import Questions
from missile_jax.coloring.solved import Solved

CONFIDENCE = 0.95
# A granule is expected where the map says; a question of many is settled by fewer timings so.
_PRIOR = 0.02


@dataclass(frozen=True, slots=True)
class Accuracy:
    """right of tested granules; low and high bound the share of right ones (Clopper-Pearson)."""

    tested: int
    right: int
    confidence: float = CONFIDENCE

    @property
    def share(self) -> float:
        return self.right / self.tested

    @property
    def low(self) -> float:
        """One-sided: the share of right ones is over this with `confidence`."""
        wrong = self.tested - self.right
        return _share_at(lambda p: _at_most(wrong, self.tested, 1 - p), 1 - self.confidence)

    @property
    def high(self) -> float:
        """One-sided: the share of right ones is under this with `confidence`."""
        if self.right == self.tested:
            return 1.0
        return 1 - _share_at(
            lambda p: _at_most(self.right, self.tested, 1 - p), 1 - self.confidence
        )

    def __str__(self) -> str:
        return (
            f"{self.right} of {self.tested} unseen granules right ({self.share:.3%}; over "
            f"{self.low:.3%} with {self.confidence:.0%} confidence)"
        )


def needed(accuracy: float, confidence: float = CONFIDENCE) -> int:
    """Granules that must all be right for `accuracy` to hold with `confidence`."""
    return math.ceil(math.log(1 - confidence) / math.log(accuracy))


def check(questions: Questions, solved: Solved, states: Mapping[int, int], count: int) -> Accuracy:
    """Tries `count` unseen granules of the pages in `states`, in sets.

    A set has as many granules of each colour. For each bit of the colour those that should have it
    are measured while all channels without it are loaded, and the other way round, so that a wrong
    colour can not hide. A set that is slow is halved until the wrong ones are found.
    """
    questions.probes.doing = "checking the map on unseen addresses"
    pool = _unseen(questions, solved, states)
    tested = wrong = 0
    for addresses, colours in _sets(questions, solved, pool):
        if tested >= count:
            break
        tested += len(addresses)
        wrong += len(_wrong(questions, addresses, colours, solved.references))
    return Accuracy(tested, tested - wrong)


def _unseen(questions: Questions, solved: Solved, states: Mapping[int, int]) -> list[list[int]]:
    """For each colour, unused addresses in random order."""
    granule_bytes = questions.granule_bytes
    granules = PAGE_BYTES // granule_bytes
    pool: list[list[int]] = [[] for _ in solved.references]
    for page, state in states.items():
        for granule, colour in enumerate(solved.channel_map.colours(state).tolist()):
            number = page * granules + granule
            if number not in questions.used:
                pool[colour].append(number * granule_bytes)
    return [[addresses[i] for i in questions.rng.permutation(len(addresses))] for addresses in pool]


def _sets(questions: Questions, solved: Solved, pool: list[list[int]]):
    channels = len(pool)
    side = min(channels, 1 << (bits_of(channels) - 1))
    each = max(1, SET_LIMIT // side)
    for start in range(0, min(map(len, pool)) - each + 1, each):
        addresses = [a for mine in pool for a in mine[start : start + each]]
        yield np.array(addresses), np.repeat(np.arange(channels), each)


def _wrong(
    questions: Questions, addresses: np.ndarray, colours: np.ndarray, references: tuple[int, ...]
) -> set[int]:
    wrong: set[int] = set()
    channels = np.arange(len(references))
    for bit in range(bits_of(len(references))):
        for value in (0, 1):
            loaded = [references[c] for c in channels[(channels >> bit & 1) != value]]
            mine = np.flatnonzero((colours >> bit & 1) == value)
            parts = [mine] if loaded and len(mine) else []
            while parts:
                part = parts.pop()
                crowd = int(np.bincount(colours[part]).max())
                slow = questions.share(
                    loaded, addresses[part].tolist(), crowd, sure=1e-4, prior=_PRIOR
                )
                if not slow:
                    continue
                if len(part) == 1:
                    wrong.add(int(addresses[part[0]]))
                else:
                    parts += [part[: len(part) // 2], part[len(part) // 2 :]]
    return wrong


def _at_most(count: int, trials: int, share: float) -> float:
    """Probability of at most `count` successes in `trials`, each with probability `share`."""
    if share <= 0:
        return 1.0
    if share >= 1:
        return float(count >= trials)
    logs = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        + k * math.log(share) + (trials - k) * math.log1p(-share)
        for k in range(count + 1)
    ]  # fmt: skip
    return min(1.0, math.fsum(map(math.exp, logs)))


def _share_at(probability, wanted: float) -> float:
    """Where `probability`, which rises with the share, is `wanted`."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < wanted else (low, middle)
    return low
