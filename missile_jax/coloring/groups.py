"""Groups of granules that hold each channel once: are they in a given order, and in which?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from missile_jax.coloring.labels import bits_of, label
from missile_jax.coloring.oracle import SET_LIMIT
from missile_jax.coloring.questions import Questions

# What is asked about is most often as it should be; many questions must not make one false alarm.
_PRIOR = 0.02


def matches(
    questions: Questions,
    addresses: Sequence[int],
    colours: Sequence[int],
    references: Sequence[int],
) -> bool:
    """Whether ``addresses[i]`` is in channel ``colours[i]`` for all i.

    For each bit of the colour: whether any of those that should have it is in a channel without it,
    and the other way round. No wrong colour passes all of these questions.
    """
    channels = np.arange(len(references))
    wanted = np.asarray(colours)
    # The first questions find nearly all that is wrong.
    for bit in questions.rng.permutation(bits_of(len(references))).tolist():
        for value in (0, 1):
            mine = np.flatnonzero((wanted >> bit & 1) == value)
            loaded = [references[c] for c in channels[(channels >> bit & 1) != value]]
            for part in np.split(mine, range(SET_LIMIT, len(mine), SET_LIMIT)):
                if not len(part) or not loaded:
                    continue
                crowd = int(np.bincount(wanted[part]).max())
                if questions.share(loaded, [addresses[i] for i in part], crowd, prior=_PRIOR):
                    return False
    return True


def label_group(
    questions: Questions, addresses: Sequence[int], references: Sequence[int]
) -> tuple[int, ...] | None:
    """The channels of a whole group, in order, or None if it does not hold each once."""
    for sure in (3e-4, 1e-5):
        order = _labelled(questions, addresses, references, sure)
        if order is not None and matches(questions, addresses, order, references):
            return tuple(order)
    return None


def _labelled(
    questions: Questions, addresses: Sequence[int], references: Sequence[int], sure: float
) -> list[int] | None:
    """Each granule's channel among those that are left; None once none of these is it."""
    left = list(range(len(references)))
    order = []
    for address in addresses:
        found = label(questions, address, references, left, sure)
        if found is None:
            return None
        left.remove(found)
        order.append(found)
    return order
