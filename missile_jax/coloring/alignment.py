"""Where in a page the groups begin: the page's phase."""

from __future__ import annotations

from missile_jax.coloring.dealt import label_more
from missile_jax.coloring.groups import matches
from missile_jax.coloring.maps import PAGE_BYTES, odd_part
from missile_jax.coloring.questions import Questions

# Granules labelled beyond the first, where those leave the phase open.
_MORE = 240


def phases_of_first(questions: Questions, labels: list[int], references: list[int]) -> list[int]:
    """The phases that page 0 can have, the likeliest first; none if its groups are no groups.

    Adds to `labels` where it has to.
    """
    questions.probes.doing = "aligning the groups"
    channels = len(references)
    phases = _fitting(labels, channels, questions.granule_bytes)
    while len(phases) > 1 and len(labels) < _MORE:
        if all(a == b for a, b in zip(labels, labels[channels:], strict=False)):
            return _by_change(questions, labels, references, phases)
        label_more(questions, labels, references, len(labels) + channels)
        phases = _fitting(labels, channels, questions.granule_bytes)
    return phases


def first_group(phase: int, channels: int, granule_bytes: int) -> int:
    """The number of the granule at which the first whole group of a page begins."""
    return -phase * (PAGE_BYTES // granule_bytes) % channels


def _fitting(labels: list[int], channels: int, granule_bytes: int) -> list[int]:
    """Phases for which each whole group among `labels` holds each channel once."""
    found = []
    for phase in range(odd_part(channels)):
        start = first_group(phase, channels, granule_bytes)
        ends = range(start + channels, len(labels) + 1, channels)
        if all(len(set(labels[end - channels : end])) == channels for end in ends):
            found.append(phase)
    return found


def _by_change(
    questions: Questions, labels: list[int], references: list[int], phases: list[int]
) -> list[int]:
    """The same order goes on: looks for where another begins.

    An order goes on for a power of two of groups, so that the other is met by doubling the distance
    and then halving it. Phases whose groups begin at the change or shortly before it come first.
    """
    channels = len(references)
    granules = PAGE_BYTES // questions.granule_bytes
    order = labels[:channels]

    def same(start: int, end: int) -> bool:
        places = range(start, end)
        return matches(
            questions,
            [place * questions.granule_bytes for place in places],
            [order[place % channels] for place in places],
            references,
        )

    def block(number: int) -> bool:
        return same(number * channels, (number + 1) * channels)

    far = 1
    while far < granules // channels and block(far):
        far *= 2
    if far >= granules // channels:
        # One order all over the page: any phase will do.
        return phases[:1]
    near = far // 2
    while far - near > 1:
        middle = (near + far) // 2
        near, far = (middle, far) if block(middle) else (near, middle)
    begins = far * channels
    starts = sorted(
        (begins + first_group(phase, channels, questions.granule_bytes), phase) for phase in phases
    )
    changed = len(starts) - 1
    for i, (start, _) in enumerate(starts):
        end = starts[i + 1][0] if i + 1 < len(starts) else begins + channels
        if start < end and not same(start, end):
            changed = i
            break
    before = [phase for _, phase in reversed(starts[: changed + 1])]
    return before + [phase for _, phase in starts[changed + 1 :]]
