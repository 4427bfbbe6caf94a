"""What the recovery of one family of maps comes to."""

from __future__ import annotations

from dataclasses import dataclass

from missile_jax.coloring.maps import PermutedMap, XorMap


@dataclass(frozen=True, slots=True)
class Solved:
    """channel_map: in labels of our own. references: an address of each channel, by its label.

    states: of the pages met on the way, by their number in the range.
    """

    channel_map: XorMap | PermutedMap
    references: tuple[int, ...]
    states: dict[int, int]
