"""The channels of a page's first granules, and how many channels there are."""

from __future__ import annotations

from missile_jax.coloring.labels import label
from missile_jax.coloring.maps import MAX_CHANNELS
from missile_jax.coloring.questions import Questions
from missile_jax.errors import RecoveryError


def label_first(questions: Questions) -> tuple[list[int], list[int]]:
    """Labels of the first granules of page 0, and an address for each label.

    Where granules are dealt out in groups that hold each channel once, a stretch of them that is
    shorter than two groups holds at least half as many channels as granules. So once there are
    more than twice as many granules as channels, all channels have been met. Stops there.
    """
    questions.probes.doing = "counting the channels"
    references: list[int] = []
    labels: list[int] = []
    while len(labels) < 2 * len(references) + 2:
        address = len(labels) * questions.granule_bytes
        if references and questions.share(references, [address]):
            found = label(questions, address, references)
            # In none of them after all: one of the answers was wrong, and the budget bounds how
            # often it is asked again.
            if found is not None:
                labels.append(found)
            continue
        labels.append(len(references))
        references.append(address)
        if len(references) > MAX_CHANNELS:
            raise RecoveryError(f"more than {MAX_CHANNELS} channels")
    return labels, references


def label_more(questions: Questions, labels: list[int], references: list[int], until: int) -> None:
    """Labels granules behind those that have labels, up to number `until`."""
    while len(labels) < until:
        address = len(labels) * questions.granule_bytes
        labels.append(_label(questions, address, references))


def _label(questions: Questions, address: int, references: list[int]) -> int:
    found = label(questions, address, references)
    if found is None:
        raise RecoveryError(f"address {address:#x} is in none of {len(references)} channels")
    return found
