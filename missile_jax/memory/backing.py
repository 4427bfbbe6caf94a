"""What a device's managed memory consists of: on a CPU, and on a CUDA GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from missile_jax._native import Arena, CudaDevice, Link
from missile_jax.errors import ConfigError
from missile_jax.memory.card import card_bytes, card_names
from missile_jax.memory.link import (
    BestCopy,
    best_copy,
    elbow,
    make_link,
    processor_share,
    remembered,
    transfer_curve,
)
from missile_jax.memory.store import pageable_zeros
from missile_jax.memory.transfers import Room
from missile_jax.spec import JaxDevice

# What XLA aligns its own arrays to.
_ALIGNMENT = {"cpu": 64, "gpu": 256}
_LEAST_GROUP_BYTES = 256 << 10
# Sizes of copies to try for the elbow of a GPU's transfer curve: some 2 MiB over PCIe (Torpor,
# arXiv:2306.03622, section on grouping).
_CUDA_GROUP_SIZES = tuple(1 << k for k in range(18, 25))
# Copies in flight: one is submitted while the other is on the bus.
_CUDA_THREADS = 2


@dataclass(frozen=True, slots=True)
class Backing:
    """An arena on a device, the link to it, and where a copy should come from.

    bytes_per_s: of the link. processor_share: what its copies take of the processors that compute.
    group_bytes: the elbow of its transfer curve. alignment: of arrays.
    host_zeros: makes host memory [n] uint8, zeros, that the link reads fastest.
    to_host, room: the link's other direction, and where requests' inputs and results lie; of a GPU.
    """

    arena: Arena
    link: Link
    bytes_per_s: float
    processor_share: float
    group_bytes: int
    alignment: int
    host_zeros: Callable[[int], np.ndarray]
    to_host: Link | None = None
    room: Room | None = None


def open_backing(
    device: JaxDevice,
    size_bytes: int,
    room_bytes: int,
    cache_dir: Path,
    link_bytes_per_s: float | None,
) -> Backing:
    """Takes `size_bytes` of `device`.

    room_bytes: for inputs of requests, beside that; a CPU takes none.
    link_bytes_per_s: play a bus of this rate; None for as fast as it goes.

    Raises ConfigError for a device that is neither, or one that has not that much.
    """
    if device.platform == "cpu":
        return _on_cpu(size_bytes, cache_dir, link_bytes_per_s)
    if device.platform == "gpu":
        return _on_cuda(device, size_bytes, room_bytes, cache_dir, link_bytes_per_s)
    raise ConfigError(
        f"device_memory= manages CPU and CUDA devices, got a {device.platform} device"
    )


def _on_cpu(size_bytes: int, cache_dir: Path, link_bytes_per_s: float | None) -> Backing:
    alignment = _ALIGNMENT["cpu"]
    try:
        arena = Arena(size_bytes, alignment=alignment)
    except (MemoryError, ValueError) as error:
        raise ConfigError(f"device_memory= is too much: {error}") from None
    link = make_link(cache_dir, emulate_bytes_per_s=link_bytes_per_s or 0.0)
    best = best_copy(cache_dir)
    rate, elbow_bytes = _at_rate(best, link_bytes_per_s)
    share = processor_share(best, rate)
    return Backing(arena, link, rate, share, elbow_bytes, alignment, pageable_zeros)


def _on_cuda(
    device: JaxDevice,
    size_bytes: int,
    room_bytes: int,
    cache_dir: Path,
    link_bytes_per_s: float | None,
) -> Backing:
    alignment = _ALIGNMENT["gpu"]
    try:
        cuda = CudaDevice(device.local_hardware_id)
        _check_budget(device, size_bytes + room_bytes, card_bytes(device.local_hardware_id))
        arena = _cuda_arena(cuda, size_bytes, alignment)
        inputs = _cuda_arena(cuda, room_bytes, alignment)
        room = Room(inputs, Arena.pinned(cuda, room_bytes, alignment))
        best = _best_cuda_copy(cuda, arena, cache_dir)
        link, to_host = (
            Link(
                cuda=cuda,
                threads=best.threads,
                emulate_bytes_per_s=link_bytes_per_s or 0.0,
                to_host=backwards,
            )
            for backwards in (False, True)
        )
    except ConfigError:
        raise
    except (MemoryError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"device_memory= cannot manage {device}: {error}") from None
    rate, elbow_bytes = _at_rate(best, link_bytes_per_s)
    zeros = partial(_pinned_zeros, cuda)
    return Backing(arena, link, rate, 0.0, elbow_bytes, alignment, zeros, to_host, room)


def _cuda_arena(cuda: CudaDevice, size_bytes: int, alignment: int) -> Arena:
    try:
        return Arena.on_cuda(cuda, size_bytes, alignment=alignment)
    except MemoryError as error:
        raise ConfigError(
            f"device_memory= is too much: {error}; XLA takes three quarters of a "
            "GPU unless XLA_PYTHON_CLIENT_MEM_FRACTION is set before JAX is first used"
        ) from None


def _check_budget(device: JaxDevice, arena_bytes: int, all_bytes: int) -> None:
    """Raises ConfigError if our arenas and what XLA may take for itself are more than the card has.

    XLA may take it later, by and by: without this, a launch would fail then.
    """
    pool_bytes = (device.memory_stats() or {}).get("bytes_limit", 0)
    if arena_bytes + pool_bytes <= all_bytes:
        return
    left = math.floor(100 * (all_bytes - arena_bytes) / all_bytes) / 100
    remedy = f"set XLA_PYTHON_CLIENT_MEM_FRACTION={left:.2f} before JAX is first used, or "
    raise ConfigError(
        f"device_memory= is too much: its arenas of {arena_bytes} bytes and XLA's own pool of "
        f"{pool_bytes} are more than the {all_bytes} of {device}; "
        f"{remedy if left > 0 else ''}give a smaller device_memory="
    )


def _pinned_zeros(cuda: CudaDevice, size_bytes: int) -> np.ndarray:
    data = np.frombuffer(memoryview(cuda.pinned(size_bytes)), np.uint8)
    data[:] = 0
    return data


def _at_rate(best: BestCopy, link_bytes_per_s: float | None) -> tuple[float, int]:
    """The rate, and the elbow: it comes earlier on a slow bus, where what a copy costs beside its
    bytes is less of it."""
    rate = link_bytes_per_s or best.bytes_per_s
    elbow_bytes = round(best.elbow_bytes * min(1, rate / best.bytes_per_s))
    return rate, max(_LEAST_GROUP_BYTES, elbow_bytes)


def _best_cuda_copy(cuda: CudaDevice, arena: Arena, cache_dir: Path) -> BestCopy:
    """From pinned memory, measured once a card in some 0.2 s; see `remembered`.

    An arena that has no room for all sizes tells only of those that it has room for: what is found
    there is not remembered.
    """
    sizes = [size for size in _CUDA_GROUP_SIZES if size <= arena.size_bytes] or [arena.size_bytes]

    def measure() -> BestCopy:
        block = arena.allocate(sizes[-1])
        assert block is not None  # The arena is empty.
        link = Link(cuda=cuda, threads=_CUDA_THREADS)
        rates = transfer_curve(link, block, _pinned_zeros(cuda, 2 * sizes[-1]), sizes)
        return BestCopy(_CUDA_THREADS, False, max(rates.values()), elbow(rates))

    whole = len(sizes) == len(_CUDA_GROUP_SIZES)
    return remembered(cache_dir, card_names(cuda.ordinal), measure, keep=whole)
