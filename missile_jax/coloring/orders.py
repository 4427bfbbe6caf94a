"""The orders of a page's groups, and the XOR of a group's number that chooses among them.

Orders are named by vectors over GF(2). Two groups whose numbers differ by d have vectors that
differ by hash(d), which is linear. In an aligned block of groups each bit of the number takes one
pair of groups that differ in that bit alone. Blocks of this size are called *stretches*; the vector
of a stretch is that of its first group, and says where the hash of the higher bits has led.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from missile_jax.coloring.groups import label_group, matches
from missile_jax.coloring.maps import PAGE_BYTES
from missile_jax.coloring.questions import Questions

_MOST_BITS = 4


@dataclass(slots=True)
class Orders:
    """by_vector: the order of each vector. bits: of the vectors. hash: vector of each bit of a
    group's number inside a stretch. stretches: vectors of those stretches of page 0 that hold a
    whole group, by number.
    """

    phase: int
    by_vector: dict[int, tuple[int, ...]]
    hash: list[int] = field(default_factory=list)
    bits: int = 0
    stretches: dict[int, int] = field(default_factory=dict)

    def inside(self, group: int) -> int:
        """By how much the vector of a group differs from that of its stretch."""
        return hash_of(group & ((1 << len(self.hash)) - 1), self.hash)


def hash_of(number: int, vectors: list[int]) -> int:
    result = 0
    for bit, vector in enumerate(vectors):
        if number >> bit & 1:
            result ^= vector
    return result


def find_orders(questions: Questions, phase: int, references: list[int]) -> Orders | str:
    """From page 0, if it is in `phase`; or why that cannot be."""
    questions.probes.doing = "telling the orders of groups apart"
    channels = len(references)
    granules = PAGE_BYTES // questions.granule_bytes
    # Whole groups of page 0 by their number within the run.
    first, past = -(-phase * granules // channels), (phase + 1) * granules // channels
    block, anchor = _largest_block(first, past)

    def addresses(group: int) -> list[int]:
        offset = group * channels - phase * granules
        return [(offset + slot) * questions.granule_bytes for slot in range(channels)]

    def known(group: int, vectors: list[int]) -> int | None:
        """Which of `vectors` the group has."""
        for vector in vectors:
            if matches(questions, addresses(group), orders.by_vector[vector], references):
                return vector
        return None

    order = label_group(questions, addresses(anchor), references)
    if order is None:
        return f"group {anchor} of phase {phase} does not hold each of {channels} channels once"
    orders = Orders(phase, {0: order})
    for bit in range(block):
        found = known(anchor + (1 << bit), sorted(orders.by_vector))
        if found is not None:
            orders.hash.append(found)
            continue
        if orders.bits == _MOST_BITS:
            return f"more than {1 << _MOST_BITS} orders of groups"
        new = 1 << orders.bits
        orders.bits += 1
        orders.hash.append(new)
        for vector in range(new, 2 * new):
            group = next(q for q in range(2 << bit) if hash_of(q, orders.hash) == vector)
            order = label_group(questions, addresses(anchor + group), references)
            if order is None:
                return f"group {anchor + group} does not hold each of {channels} channels once"
            orders.by_vector[vector] = order
    for stretch in range(first >> block, (past - 1 >> block) + 1):
        group = max(first, stretch << block)
        inside = orders.inside(group)
        vectors = [vector ^ inside for vector in sorted(orders.by_vector)]
        found = 0 ^ inside if stretch == anchor >> block else known(group, vectors)
        if found is None:
            return f"group {group} of phase {phase} is in none of the {len(vectors)} orders found"
        orders.stretches[stretch] = found ^ inside
    return orders


def _largest_block(first: int, past: int) -> tuple[int, int]:
    """log2 of the size of the largest aligned block inside first ... past - 1, and its begin."""
    for bits in range((past - first).bit_length() - 1, -1, -1):
        begin = -(-first >> bits) << bits
        if begin + (1 << bits) <= past:
            return bits, begin
    return 0, first
