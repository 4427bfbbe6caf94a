"""Recovery of maps that deal granules out in permuted groups."""

from __future__ import annotations

from missile_jax.coloring.alignment import phases_of_first
from missile_jax.coloring.dealt import label_first
from missile_jax.coloring.maps import PAGE_BYTES, odd_part
from missile_jax.coloring.orders import find_orders
from missile_jax.coloring.questions import Questions
from missile_jax.coloring.runs import complete
from missile_jax.coloring.solved import Solved

# Random granules of page 0 that a map has to foretell before it is believed in.
_TRIALS = 16


def solve_permuted(questions: Questions) -> Solved | str:
    """The map, or why it is no permuted one."""
    labels, references = label_first(questions)
    channels, granules = len(references), PAGE_BYTES // questions.granule_bytes
    if channels < 2 or granules * odd_part(channels) % channels or granules < 2 * channels:
        return f"{channels} channels cannot be dealt out to {granules} granules of a page"
    phases = phases_of_first(questions, labels, references)
    reason = f"no stretch of {channels} granules holds each of {channels} channels once"
    for phase in phases:
        orders = find_orders(questions, phase, references)
        if isinstance(orders, str):
            reason = orders
            continue
        solved = complete(questions, orders, references)
        if isinstance(solved, str):
            reason = solved
            continue
        colours = solved.channel_map.colours(solved.states[0])
        wrong = next(
            (
                granule
                for granule in questions.rng.integers(granules, size=_TRIALS).tolist()
                if not questions.share(
                    [references[colours[granule]]], [granule * questions.granule_bytes]
                )
            ),
            None,
        )
        if wrong is None:
            return solved
        reason = f"the orders of {channels} channels found do not foretell granule {wrong}"
    return reason
