"""How much memory a CUDA device has, by its driver."""

from __future__ import annotations

import ctypes
import os


def card_bytes(ordinal: int) -> int:
    """Of device `ordinal`, all that it has. Raises OSError if the driver does not say."""
    driver = ctypes.CDLL(os.environ.get("MISSILE_CUDA_DRIVER") or "libcuda.so.1")
    device, size_bytes = ctypes.c_int(), ctypes.c_size_t()
    for name, *arguments in (
        ("cuInit", 0),
        ("cuDeviceGet", ctypes.byref(device), ordinal),
        ("cuDeviceTotalMem_v2", ctypes.byref(size_bytes), device),
    ):
        result = driver[name](*arguments)
        if result != 0:
            raise OSError(f"CUDA's driver answered {name} with error {result}")
    return size_bytes.value
