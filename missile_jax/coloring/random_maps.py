"""Random legal maps: what a recovery and an allocator have to cope with."""

from __future__ import annotations

import numpy as np

from missile_jax.coloring.gf2 import rank
from missile_jax.coloring.maps import PAGE_BYTES, PermutedMap, TableMap, XorMap, odd_part
from missile_jax.errors import ChannelMapError

# Physical addresses of up to 16 GiB.
ADDRESS_BITS = 34


def random_xor_map(rng: np.random.Generator, channels: int, granule_bytes: int = 1024) -> XorMap:
    """Each mask a random half of the address bits; every page holds every channel.

    channels: a power of two. Raises ChannelMapError if it is none.
    """
    bits = channels.bit_length() - 1
    if channels != 1 << bits or not bits:
        raise ChannelMapError(f"channels={channels}: an XOR map has a power of two, at least 2")
    low = granule_bytes.bit_length() - 1
    while True:
        masks = [int(rng.integers(1 << (ADDRESS_BITS - low))) << low for _ in range(bits)]
        inside = [mask % PAGE_BYTES for mask in masks]
        if rank(inside) == bits and any(mask & granule_bytes for mask in masks):
            return XorMap(granule_bytes, tuple(masks))


def random_permuted_map(
    rng: np.random.Generator,
    channels: int,
    index_bits: int | None = None,
    granule_bytes: int = 1024,
) -> PermutedMap:
    """Random orders of the channels, chosen by random XORs of the group's number.

    index_bits: log2 of the number of orders; 0 to 3 at random if left out. No two are
    the same, and every page holds groups of each. Raises ChannelMapError if a page has too few
    groups for that.
    """
    # A page holds at least one whole aligned block of 2 ** inner groups.
    inner = max(0, (PAGE_BYTES // granule_bytes // channels).bit_length() - 2)
    bits = int(rng.integers(min(3, inner) + 1)) if index_bits is None else index_bits
    if bits > inner:
        raise ChannelMapError(f"index_bits={bits}: the groups of a page allow for at most {inner}")
    orders: list[tuple[int, ...]] = []
    while len(orders) < 1 << bits:
        order = tuple(rng.permutation(channels).tolist())
        if order not in orders:
            orders.append(order)
    run_bits = (PAGE_BYTES // granule_bytes * odd_part(channels) // channels).bit_length() - 1
    width = run_bits + ADDRESS_BITS - 21
    while True:
        masks = [int(rng.integers(1, 1 << width)) for _ in range(bits)]
        if rank([mask % (1 << inner) for mask in masks]) == bits:
            return PermutedMap(granule_bytes, channels, tuple(masks), tuple(orders))


def random_table_map(
    rng: np.random.Generator, channels: int, granule_bytes: int = 1024, states: int = 64
) -> TableMap:
    """Colours without any structure."""
    granules = PAGE_BYTES // granule_bytes
    rows = rng.integers(channels, size=(states, granules), dtype=np.uint8)
    return TableMap(granule_bytes, channels, tuple(row.tobytes() for row in rows))
