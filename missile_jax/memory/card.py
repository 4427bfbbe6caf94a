"""What its driver says of a CUDA device."""

from __future__ import annotations

import ctypes
import os
from typing import Any


def card_bytes(ordinal: int) -> int:
    """All the memory that device `ordinal` has. Raises OSError if the driver does not say."""
    device, size_bytes = ctypes.c_int(), ctypes.c_size_t()
    _ask(ordinal, device, ("cuDeviceTotalMem_v2", ctypes.byref(size_bytes), device))
    return size_bytes.value


def card_names(ordinal: int) -> tuple[str, ...]:
    """What tells device `ordinal` from others: name, UUID, place on the bus, and the driver's
    version. Raises OSError if the driver does not say."""
    device, version = ctypes.c_int(), ctypes.c_int()
    name, uuid, place = map(ctypes.create_string_buffer, (256, 16, 64))
    _ask(
        ordinal,
        device,
        ("cuDeviceGetName", name, len(name), device),
        ("cuDeviceGetUuid_v2", uuid, device),
        ("cuDeviceGetPCIBusId", place, len(place), device),
        ("cuDriverGetVersion", ctypes.byref(version)),
    )
    return name.value.decode(), uuid.raw.hex(), place.value.decode(), str(version.value)


def _ask(ordinal: int, device: ctypes.c_int, *calls: tuple[Any, ...]) -> None:
    """Makes `calls`, each a function's name and its arguments, once `device` is the handle."""
    driver = ctypes.CDLL(os.environ.get("MISSILE_CUDA_DRIVER") or "libcuda.so.1")
    for name, *arguments in (
        ("cuInit", 0),
        ("cuDeviceGet", ctypes.byref(device), ordinal),
        *calls,
    ):
        result = driver[name](*arguments)
        if result != 0:
            raise OSError(f"CUDA's driver answered {name} with error {result}")
