"""How many bytes on end lie in one channel."""

from __future__ import annotations

from missile_jax.coloring.maps import PAGE_BYTES
from missile_jax.coloring.questions import Questions
from missile_jax.errors import RecoveryError

_PLACES = 6
_SMALLEST_BYTES = 256


def find_granule_bytes(questions: Questions) -> int:
    """The least power of two by which two addresses can differ and be in two channels.

    Raises RecoveryError if there is none inside a page: then nothing can be chosen in it.
    """
    questions.probes.doing = "finding the granule"
    granule = _SMALLEST_BYTES
    while granule < PAGE_BYTES:
        blocks = questions.probes.pages * PAGE_BYTES // (2 * granule)
        for block in questions.rng.integers(blocks, size=_PLACES):
            first = int(block) * 2 * granule
            if not questions.share([first], [first + granule]):
                return granule
        granule *= 2
    raise RecoveryError("all addresses of a page are in one channel")
