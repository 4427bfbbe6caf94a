"""DRAM banks and rows behind a channel, from pairs that conflict.

Two addresses in one bank and in different rows are slower one after the other. Under an XOR hash
their difference is in the kernel of the bank's hash, which is a part of the channel's kernel: so
only offsets of one channel have to be tried. What else the kernel holds are mates in the same row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from missile_jax.coloring.gf2 import in_span, null_space, rank, reduced, span
from missile_jax.coloring.maps import PAGE_BYTES, XorMap
from missile_jax.coloring.questions import Questions
from missile_jax.coloring.solved import Solved

_PAIRS = 256
# A conflict is rare: one slow timing is most often noise.
_PRIOR = 0.05


@dataclass(frozen=True, slots=True)
class Banks:
    """conflicts of pairs of one channel.

    masks: over the offset in a page, of channel and bank together; bank bits that are a channel's
    come first. row_bytes: of one row that lie in a page, over all channels. Both are known for XOR
    maps only, and None where no pair conflicted.
    """

    pairs: int
    conflicts: int
    masks: tuple[int, ...] | None
    row_bytes: int | None


def find_banks(questions: Questions, solved: Solved) -> Banks:
    """From pairs of one channel in page 0."""
    questions.probes.doing = "telling bank bits from channel bits"
    granule = questions.granule_bytes
    colours = solved.channel_map.colours(solved.states[0])
    base = 0
    mates = np.flatnonzero(colours == colours[base])
    mates = questions.rng.permutation(mates[mates != base])[:_PAIRS].tolist()
    slow = [
        mate
        for mate in mates
        if questions.conflict_once(base, mate * granule)
        and questions.conflict(base, mate * granule, prior=_PRIOR)
    ]
    if not isinstance(solved.channel_map, XorMap) or not slow:
        return Banks(len(mates), len(slow), None, None)
    bits = (PAGE_BYTES // granule).bit_length() - 1
    kernel = reduced(slow)
    channel_masks = [mask // granule for mask in solved.channel_map.masks]
    masks = list(channel_masks)
    for mask in null_space(kernel, bits):
        if not in_span(mask, reduced(masks)):
            masks.append(mask)
    # Of the kernel, those in the row of the base: all that do not conflict.
    in_row = [offset for offset in span(kernel) if offset not in slow]
    tried = set(mates)
    quick = [offset for offset in in_row if offset in tried or offset == 0]
    row = 1 << rank(quick)
    return Banks(len(mates), len(slow), tuple(mask * granule for mask in masks), row * granule)
