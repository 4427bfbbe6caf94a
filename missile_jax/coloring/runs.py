"""The bits of a group's number that no single page shows: other pages of the run do.

Within a page, groups that agree in all higher bits form a stretch. Where a page holds two
stretches, how their orders differ is one equation for the hash of the higher bits.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from missile_jax.coloring.maps import PAGE_BYTES, PermutedMap, odd_part
from missile_jax.coloring.orders import Orders, hash_of
from missile_jax.coloring.questions import Questions
from missile_jax.coloring.solved import Solved
from missile_jax.coloring.states import find_hypothesis

# Pages looked at for each phase there is, before the rest is taken as never to be seen.
_PAGES_PER_PHASE = 8
# Pages that fit nothing, before the fault is looked for in page 0.
_MOST_STRANGE = 2


@dataclass(slots=True)
class _Equations:
    """hash(mask) = value, in echelon form: each mask has a leading bit of its own."""

    rows: dict[int, tuple[int, int]] = field(default_factory=dict)

    def reduce(self, mask: int, value: int = 0) -> tuple[int, int]:
        for lead, (row, vector) in sorted(self.rows.items(), reverse=True):
            if mask >> lead & 1:
                mask, value = mask ^ row, value ^ vector
        return mask, value

    def add(self, mask: int, value: int) -> None:
        mask, value = self.reduce(mask, value)
        if mask:
            self.rows[mask.bit_length() - 1] = mask, value

    def solution(self, bits: int) -> list[int]:
        """A vector for each bit; 0 where nothing tells."""
        vectors = [0] * bits
        for lead, (row, vector) in sorted(self.rows.items()):
            vectors[lead] = vector ^ hash_of(row ^ 1 << lead, vectors)
        return vectors


def complete(questions: Questions, orders: Orders, references: list[int]) -> Solved | str:
    """The whole map, with the states of the pages met on the way; or why there is none."""
    questions.probes.doing = "following the groups through other pages"
    channels, granule_bytes = len(references), questions.granule_bytes
    granules = PAGE_BYTES // granule_bytes
    run_bits = (granules * odd_part(channels) // channels).bit_length() - 1
    low = len(orders.hash)
    count = 1 << orders.bits
    table = np.array([orders.by_vector[vector] for vector in range(count)], np.uint8)
    equations = _Equations()
    found = {0: (orders.phase, *_linked(equations, list(orders.stretches.items())))}
    pages = range(1, min(questions.probes.pages, 1 + _PAGES_PER_PHASE * odd_part(channels)))
    inner = np.array([hash_of(q, orders.hash) for q in range(1 << low)])
    strange: list[int] = []
    for page in pages:
        if len(equations.rows) >= run_bits - low or orders.bits == 0:
            break
        hypotheses, rows = [], []
        for phase in range(odd_part(channels)):
            places = phase * granules + np.arange(granules)
            group, slot = places // channels, places % channels
            stretch = group >> low
            stretches = np.unique(stretch).tolist()
            for vectors in _vectors(stretches, equations, count):
                constants = np.array(vectors)[np.searchsorted(stretches, stretch)]
                rows.append(table[inner[group & ((1 << low) - 1)] ^ constants, slot])
                hypotheses.append((phase, stretches, vectors))
        chosen = find_hypothesis(questions, page, np.stack(rows), references)
        if chosen is None:
            strange.append(page)
            if len(strange) == _MOST_STRANGE:
                return f"pages {strange} follow no phase and order of groups"
            continue
        phase, stretches, vectors = hypotheses[chosen]
        found[page] = phase, *_linked(equations, list(zip(stretches, vectors, strict=True)))
    hashes = orders.hash + equations.solution(max(0, run_bits - low))
    masks = tuple(
        sum((vector >> i & 1) << bit for bit, vector in enumerate(hashes))
        for i in range(orders.bits)
    )
    channel_map = PermutedMap(
        granule_bytes, channels, masks, tuple(orders.by_vector[v] for v in range(count))
    )
    states = {}
    for page, (phase, stretch, vector) in found.items():
        states[page] = phase * count + (vector ^ hash_of(stretch << low, hashes))
    return Solved(channel_map, tuple(references), states)


def _linked(equations: _Equations, stretches: list[tuple[int, int]]) -> tuple[int, int]:
    """Adds what a page's stretches say of each other; returns the first, for the page's state."""
    first, vector = stretches[0]
    for other, its_vector in stretches[1:]:
        equations.add(first ^ other, vector ^ its_vector)
    return first, vector


def _vectors(stretches: list[int], equations: _Equations, count: int):
    """All vectors that the stretches of a page can have, by what is known of their differences."""
    # Each stretch follows an earlier one, or is free.
    follows: list[tuple[int, int] | None] = []
    for i, stretch in enumerate(stretches):
        leader = None
        for j in range(i):
            mask, value = equations.reduce(stretch ^ stretches[j])
            if mask == 0:
                leader = j, value
                break
        follows.append(leader)
    free = sum(leader is None for leader in follows)
    for chosen in itertools.product(range(count), repeat=free):
        picks = iter(chosen)
        vectors: list[int] = []
        for leader in follows:
            vectors.append(next(picks) if leader is None else vectors[leader[0]] ^ leader[1])
        yield tuple(vectors)
