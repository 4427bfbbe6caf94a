"""What a device's managed memory consists of: on a CPU, and on a CUDA GPU."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from missile_jax._native import Arena, CudaDevice, Link
from missile_jax.errors import ConfigError
from missile_jax.memory.card import card_bytes
from missile_jax.memory.link import best_copy, make_link
from missile_jax.memory.store import pageable_zeros
from missile_jax.spec import JaxDevice

# What XLA aligns its own arrays to.
_ALIGNMENT = {"cpu": 64, "gpu": 256}
# Where PCIe's transfer curve has its elbow (Torpor, arXiv:2306.03622, section on grouping).
_CUDA_GROUP_BYTES = 2 << 20
_LEAST_GROUP_BYTES = 256 << 10
# Copies in flight: one is submitted while the other is on the bus.
_CUDA_THREADS = 2
_PROBE_BYTES, _PROBES = 32 << 20, 5


@dataclass(frozen=True, slots=True)
class Backing:
    """An arena on a device, the link to it, and where a copy should come from.

    bytes_per_s: of the link. group_bytes: the elbow of its transfer curve. alignment: of arrays.
    host_zeros: makes host memory [n] uint8, zeros, that the link reads fastest.
    """

    arena: Arena
    link: Link
    bytes_per_s: float
    group_bytes: int
    alignment: int
    host_zeros: Callable[[int], np.ndarray]


def open_backing(
    device: JaxDevice, size_bytes: int, cache_dir: Path, link_bytes_per_s: float | None
) -> Backing:
    """Takes `size_bytes` of `device`.

    link_bytes_per_s: play a bus of this rate; None for as fast as it goes.

    Raises ConfigError for a device that is neither, or one that has not that much.
    """
    makers = {"cpu": _on_cpu, "gpu": _on_cuda}
    if device.platform not in makers:
        raise ConfigError(
            f"device_memory= manages CPU and CUDA devices, got a {device.platform} device"
        )
    return makers[device.platform](device, size_bytes, cache_dir, link_bytes_per_s)


def _on_cpu(
    device: JaxDevice, size_bytes: int, cache_dir: Path, link_bytes_per_s: float | None
) -> Backing:
    alignment = _ALIGNMENT["cpu"]
    try:
        arena = Arena(size_bytes, alignment=alignment)
    except (MemoryError, ValueError) as error:
        raise ConfigError(f"device_memory= is too much: {error}") from None
    link = make_link(cache_dir, emulate_bytes_per_s=link_bytes_per_s or 0.0)
    best = best_copy(cache_dir)
    rate = link_bytes_per_s or best.bytes_per_s
    # What a copy costs beside its bytes is less on a slow bus: its elbow comes earlier.
    elbow_bytes = max(_LEAST_GROUP_BYTES, round(best.elbow_bytes * min(1, rate / best.bytes_per_s)))
    return Backing(arena, link, rate, elbow_bytes, alignment, pageable_zeros)


def _on_cuda(
    device: JaxDevice, size_bytes: int, cache_dir: Path, link_bytes_per_s: float | None
) -> Backing:
    alignment = _ALIGNMENT["gpu"]
    try:
        cuda = CudaDevice(device.local_hardware_id)
        _check_budget(device, size_bytes, card_bytes(device.local_hardware_id))
        arena = Arena.on_cuda(cuda, size_bytes, alignment=alignment)
    except MemoryError as error:
        raise ConfigError(
            f"device_memory= is too much: {error}; XLA takes three quarters of a "
            "GPU unless XLA_PYTHON_CLIENT_MEM_FRACTION is set before JAX is first used"
        ) from None
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"device_memory= cannot manage {device}: {error}") from None
    link = Link(cuda=cuda, threads=_CUDA_THREADS, emulate_bytes_per_s=link_bytes_per_s or 0.0)
    zeros = partial(_pinned_zeros, cuda)
    rate = link_bytes_per_s or _measured_rate(arena, link, zeros)
    return Backing(arena, link, rate, _CUDA_GROUP_BYTES, alignment, zeros)


def _check_budget(device: JaxDevice, arena_bytes: int, all_bytes: int) -> None:
    """Raises ConfigError if the arena and what XLA may take for itself are more than the card has.

    XLA may take it later, by and by: without this, a launch would fail then.
    """
    pool_bytes = (device.memory_stats() or {}).get("bytes_limit", 0)
    if arena_bytes + pool_bytes <= all_bytes:
        return
    left = math.floor(100 * (all_bytes - arena_bytes) / all_bytes) / 100
    remedy = f"set XLA_PYTHON_CLIENT_MEM_FRACTION={left:.2f} before JAX is first used, or "
    raise ConfigError(
        f"device_memory= is too much: its arena of {arena_bytes} bytes and XLA's own pool of "
        f"{pool_bytes} are more than the {all_bytes} of {device}; "
        f"{remedy if left > 0 else ''}give a smaller device_memory="
    )


def _pinned_zeros(cuda: CudaDevice, size_bytes: int) -> np.ndarray:
    data = np.frombuffer(memoryview(cuda.pinned(size_bytes)), np.uint8)
    data[:] = 0
    return data


def _measured_rate(arena: Arena, link: Link, zeros: Callable[[int], np.ndarray]) -> float:
    source = zeros(min(_PROBE_BYTES, arena.size_bytes))
    block = arena.allocate(len(source))
    assert block is not None  # The arena is empty.
    flow = link.flow("probe")
    times = []
    for _ in range(_PROBES):
        start = time.perf_counter()
        flow.copy((block.address, block), 0, source, 0, len(source)).wait()
        times.append(time.perf_counter() - start)
    flow.close()
    return len(source) / statistics.median(times)
