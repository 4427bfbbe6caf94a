"""Recovery of XOR maps.

The channels of a page's granules, as offsets of a bit vector space over GF(2), are its cosets by a
kernel: two offsets are in one channel if and only if their difference is in it. It takes one search
for each bit of the offset to find the kernel; the masks are its null space.
"""

from __future__ import annotations

from missile_jax.coloring.gf2 import null_space, span
from missile_jax.coloring.labels import label
from missile_jax.coloring.maps import PAGE_BYTES, XorMap, hashed
from missile_jax.coloring.questions import Questions
from missile_jax.coloring.solved import Solved

# Random offsets that a map has to foretell before it is believed in.
_TRIALS = 16


def solve_xor(questions: Questions) -> Solved | str:
    """The map, from page 0, in state 0 there; or why it is no XOR map."""
    questions.probes.doing = "looking for an XOR map"
    granule = questions.granule_bytes
    bits = (PAGE_BYTES // granule).bit_length() - 1
    # Offsets in different channels whatever they are summed with, and sums in one channel with 0.
    free: list[int] = []
    kernel: list[int] = []
    for bit in range(bits):
        known = span(free)
        loaded = [offset * granule for offset in known]
        address = (1 << bit) * granule
        if questions.share(loaded, [address]):
            same = label(questions, address, loaded)
            if same is None:
                return f"offset {address:#x} is in none of {len(loaded)} channels"
            kernel.append(known[same] ^ 1 << bit)
        else:
            free.append(1 << bit)
            if len(free) > 8:
                return "more than 256 channels in a page"
    if not free:
        return "all granules of a page are in one channel"
    masks = tuple(mask * granule for mask in null_space(kernel, bits))
    channel_map = XorMap(granule, masks)
    references = {int(hashed(offset * granule, masks)): offset * granule for offset in span(free)}
    by_label = tuple(references[i] for i in range(channel_map.channels))
    colours = channel_map.colours(0)
    for offset in questions.rng.integers(1 << bits, size=_TRIALS).tolist():
        colour = int(colours[offset])
        if not questions.share([by_label[colour]], [offset * granule]):
            return (
                f"an XOR of {channel_map.channels} channels fits single address bits, "
                f"but not offset {offset * granule:#x}"
            )
    return Solved(channel_map, by_label, {0: 0})
