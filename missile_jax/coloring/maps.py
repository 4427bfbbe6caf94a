"""Channel maps: from a page's state to the colour of each of its granules.

Three families. `XorMap`: each bit of the colour is the parity of some address bits. `PermutedMap`:
the granules are dealt out in aligned groups of as many as there are channels, each group in an
order that an XOR of the group's number chooses; so for channel counts that are no power of two.
`TableMap`: colours as measured, page state by page state.

Axes: G granules of a page, m channels, P permutations, S states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from missile_jax.errors import ChannelMapError

PAGE_BYTES = 2 << 20
MAX_CHANNELS = 256


class ChannelMap(Protocol):
    """What an allocator needs of a map.

    granule_bytes: a power of two below PAGE_BYTES. channels: colours are 0 ... channels - 1.
    states: page states are 0 ... states - 1.
    """

    @property
    def granule_bytes(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def states(self) -> int: ...

    def colours(self, state: int) -> np.ndarray:
        """[G] uint8: the colour of each granule of a page in `state`."""
        ...

    def page_state(self, page: int) -> int:
        """The state of physical page number `page`, as far as the map knows high address bits."""
        ...


@dataclass(frozen=True, slots=True)
class XorMap:
    """Bit i of the colour is the parity of ``address & masks[i]``.

    A page's state is the colour of its first granule. Recovered masks have bits inside the
    page only: for them `page_state` is 0, and a page's real state is measured.
    """

    granule_bytes: int
    masks: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_granule(self.granule_bytes)
        if not self.masks or len(self.masks) > 8:
            raise ChannelMapError(f"masks={self.masks}: a map has 1 to 8 masks")
        for mask in self.masks:
            if mask <= 0 or mask % self.granule_bytes or mask >> 64:
                raise ChannelMapError(
                    f"mask={mask:#x} must have bits in 64-bit addresses, none below the granule "
                    f"of {self.granule_bytes} bytes"
                )

    @property
    def channels(self) -> int:
        return 1 << len(self.masks)

    @property
    def states(self) -> int:
        return self.channels

    def colours(self, state: int) -> np.ndarray:
        _check_state(state, self.states)
        offsets = np.arange(0, PAGE_BYTES, self.granule_bytes, dtype=np.uint64)
        return (hashed(offsets, self.masks) ^ state).astype(np.uint8)

    def page_state(self, page: int) -> int:
        return int(hashed(page * PAGE_BYTES, self.masks))


@dataclass(frozen=True, slots=True)
class PermutedMap:
    """Group q of m granules has channels ``permutations[index(q)]``, in this order.

    index_masks: bit i of index(q) is the parity of ``q & index_masks[i]``.
    permutations: [P, m], P = 2 ** len(index_masks).

    Groups straddle pages where m has an odd factor d. Page p then has *phase* p mod d, and d pages
    on end hold a power of two of groups, so that the number of a group is that of its run of d
    pages, then that within the run, without a carry. A page's state is phase * P + the index of its
    run. Masks that were recovered have bits within a run only.
    """

    granule_bytes: int
    channels: int
    index_masks: tuple[int, ...]
    permutations: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        _check_granule(self.granule_bytes)
        if not 2 <= self.channels <= MAX_CHANNELS:
            raise ChannelMapError(f"channels={self.channels}: must be 2 to {MAX_CHANNELS}")
        if (PAGE_BYTES // self.granule_bytes * odd_part(self.channels)) % self.channels:
            raise ChannelMapError(
                f"channels={self.channels}: more than the granules of a page can be dealt out to"
            )
        if len(self.permutations) != 1 << len(self.index_masks):
            raise ChannelMapError(
                f"{len(self.permutations)} permutations do not go with {len(self.index_masks)} "
                f"index masks: must be {1 << len(self.index_masks)}"
            )
        for order in self.permutations:
            if sorted(order) != list(range(self.channels)):
                raise ChannelMapError(
                    f"permutation {order}: must hold each of {self.channels} channels once"
                )

    @property
    def phases(self) -> int:
        return odd_part(self.channels)

    @property
    def groups_of_run(self) -> int:
        """Groups that `phases` pages on end hold: a power of two."""
        return PAGE_BYTES // self.granule_bytes * self.phases // self.channels

    @property
    def states(self) -> int:
        return self.phases * len(self.permutations)

    def colours(self, state: int) -> np.ndarray:
        _check_state(state, self.states)
        phase, run = divmod(state, len(self.permutations))
        granules = PAGE_BYTES // self.granule_bytes
        places = phase * granules + np.arange(granules, dtype=np.uint64)
        group, slot = places // self.channels, places % self.channels
        orders = np.array(self.permutations, np.uint8)
        return orders[hashed(group, self.index_masks) ^ run, slot]

    def page_state(self, page: int) -> int:
        run, phase = divmod(page, self.phases)
        index = int(hashed(run * self.groups_of_run, self.index_masks))
        return phase * len(self.permutations) + index


@dataclass(frozen=True, slots=True)
class TableMap:
    """The colours of each page state in a table; physical page p is in state p mod S.

    table: S rows, each of G bytes.
    """

    granule_bytes: int
    channels: int
    table: tuple[bytes, ...]

    def __post_init__(self) -> None:
        _check_granule(self.granule_bytes)
        granules = PAGE_BYTES // self.granule_bytes
        if not self.table:
            raise ChannelMapError("table: it has no row")
        for row in self.table:
            if len(row) != granules:
                raise ChannelMapError(f"table: a row of {len(row)} bytes, must be {granules}")
            if max(row) >= self.channels:
                raise ChannelMapError(f"table: colour {max(row)} of {self.channels} channels")

    @property
    def states(self) -> int:
        return len(self.table)

    def colours(self, state: int) -> np.ndarray:
        _check_state(state, self.states)
        return np.frombuffer(self.table[state], np.uint8)

    def page_state(self, page: int) -> int:
        return page % len(self.table)


def colours_at(channel_map: ChannelMap, addresses: np.ndarray) -> np.ndarray:
    """[n] uint8: the colours of physical `addresses` [n], for a map that knows high bits."""
    addresses = np.asarray(addresses, np.uint64)
    pages, place = np.unique(addresses // np.uint64(PAGE_BYTES), return_inverse=True)
    granules = (addresses % np.uint64(PAGE_BYTES)) // np.uint64(channel_map.granule_bytes)
    states = np.array([channel_map.page_state(int(page)) for page in pages])
    colours = {int(state): channel_map.colours(int(state)) for state in set(states.tolist())}
    rows, row_of_page = np.unique(states, return_inverse=True)
    table = np.stack([colours[int(state)] for state in rows])
    return table[row_of_page[place], granules.astype(np.int64)]


def hashed(values: np.ndarray | int, masks: Sequence[int]) -> np.ndarray:
    """int64, of the shape of `values`: bit i is the parity of ``values & masks[i]``."""
    values = np.asarray(values, np.uint64)
    result = np.zeros(values.shape, np.int64)
    for i, mask in enumerate(masks):
        parity = np.bitwise_count(values & np.uint64(mask)) & 1
        result |= parity.astype(np.int64) << i
    return result


def odd_part(number: int) -> int:
    """The largest odd factor."""
    return number // (number & -number)


def _check_granule(granule_bytes: int) -> None:
    if not 1 <= granule_bytes < PAGE_BYTES or granule_bytes & (granule_bytes - 1):
        raise ChannelMapError(
            f"granule_bytes={granule_bytes}: must be a power of two below {PAGE_BYTES}"
        )


def _check_state(state: int, states: int) -> None:
    if not 0 <= state < states:
        raise ChannelMapError(f"page state {state}: must be 0 to {states - 1}")
