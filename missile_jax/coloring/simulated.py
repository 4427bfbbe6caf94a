"""Channel maps put into the memory-system simulator, to be timed as a GPU would be.

Simulated: what comes of it is a statement about the method, not about a GPU.
"""

from __future__ import annotations

import numpy as np

from missile_jax._native import AddressMap, SimulatedProber
from missile_jax.coloring.maps import ChannelMap, PermutedMap, TableMap, XorMap
from missile_jax.errors import ChannelMapError

# Physical pages of 16 GiB, of which a process gets some.
_PHYSICAL_PAGES = 8192
# 16 banks a channel: parities of bits above those that choose a column.
_BANK_MASKS = (0x0002_4922_4000, 0x0001_2491_2000, 0x0000_9248_8000, 0x0002_0924_1000)
_ROW_SHIFT = 18


def address_map(
    channel_map: ChannelMap,
    bank_masks: tuple[int, ...] = _BANK_MASKS,
    row_shift: int = _ROW_SHIFT,
) -> AddressMap:
    """A simulated memory whose channels are those of `channel_map`.

    bank_masks: of the banks inside a channel. row_shift: rows are told apart by what is above.
    """
    match channel_map:
        case XorMap():
            return AddressMap.xor(
                channel_map.granule_bytes,
                channel_map.masks,
                bank_masks=bank_masks,
                row_shift=row_shift,
            )
        case PermutedMap():
            return AddressMap.permuted(
                channel_map.granule_bytes,
                channel_map.channels,
                channel_map.index_masks,
                channel_map.permutations,
                bank_masks=bank_masks,
                row_shift=row_shift,
            )
        case TableMap():
            return AddressMap.table(
                channel_map.granule_bytes,
                channel_map.channels,
                b"".join(channel_map.table),
                bank_masks=bank_masks,
                row_shift=row_shift,
            )
    raise ChannelMapError(f"{type(channel_map).__name__} cannot be simulated")


def simulated_oracle(
    memory: AddressMap | ChannelMap,
    *,
    pages: int = 64,
    wrong: float = 0.05,
    spikes: float = 0.02,
    jitter: float = 0.02,
    seed: int = 0,
) -> SimulatedProber:
    """A timing oracle for `pages` pages scattered over 16 GiB of a simulated memory.

    wrong: share of timings that are those of the opposite case. spikes: share that takes up to
    eight times as long. jitter: standard deviation of all, as a share. DRAM refresh comes on top.
    """
    if not isinstance(memory, AddressMap):
        memory = address_map(memory)
    physical = np.random.default_rng(seed).permutation(_PHYSICAL_PAGES)[:pages].tolist()
    return SimulatedProber(memory, physical, wrong=wrong, spikes=spikes, jitter=jitter, seed=seed)
