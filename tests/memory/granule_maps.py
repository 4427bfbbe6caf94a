"""Channel maps and contents for tests of granules."""

from __future__ import annotations

import ctypes

import numpy as np

from missile_jax._native import Arena, GranulePool, Granules

PAGE = 2 << 20
KIB = 1 << 10


def random_colours(pages: int, granule_bytes: int, channels: int, seed: int = 0) -> np.ndarray:
    """[pages, granules] uint8: each group of `channels` granules in an order of its own."""
    rng = np.random.default_rng(seed)
    granules = PAGE // granule_bytes
    groups = -(-granules // channels)
    rows = [
        np.concatenate([rng.permutation(channels) for _ in range(groups)])[:granules]
        for _ in range(pages)
    ]
    return np.array(rows, np.uint8)


def colours_of(granules: Granules, colours: np.ndarray) -> np.ndarray:
    """[n]: the channels that a table leads to, by the map alone."""
    return colours.reshape(-1)[granules.table]


def written(arena: Arena, pool: GranulePool, granules: Granules, seed: int) -> bytes:
    """Fills it with bytes of its own, granule by granule, and returns them."""
    size = pool.granule_bytes * len(granules.table)
    content = np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()
    for place, granule in enumerate(granules.table.tolist()):
        part = content[place * pool.granule_bytes : (place + 1) * pool.granule_bytes]
        ctypes.memmove(arena.address + granule * pool.granule_bytes, part, len(part))
    return content


def read(arena: Arena, pool: GranulePool, granules: Granules) -> bytes:
    return b"".join(
        ctypes.string_at(arena.address + granule * pool.granule_bytes, pool.granule_bytes)
        for granule in granules.table.tolist()
    )
