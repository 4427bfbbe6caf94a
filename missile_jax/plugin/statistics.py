"""What the plugin did in this process, in numbers: for tests and for those who look closely.

``MISSILE_PJRT_STATISTICS=1`` asks for them before JAX starts; statistics.h says what each counts.
"""

from __future__ import annotations

import ctypes
from typing import Any

from jax._src import xla_bridge

from missile_jax.plugin import PLATFORM
from missile_jax.plugin.handlers import Extension, find_extension

_TYPE = 0x4D534C45
_Read = ctypes.CFUNCTYPE(
    ctypes.c_bool,
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_char_p),
    ctypes.POINTER(ctypes.c_int64),
)


class _StatisticsExtension(ctypes.Structure):
    _fields_ = (("base", Extension), ("read", _Read))


def read_statistics(platform: str = PLATFORM) -> dict[str, int] | None:
    """All counts by name, or None if they were not asked for.

    Raises KeyError if `platform` is not registered.
    """
    c_api: Any = xla_bridge._backend_factories[platform].c_api
    link = find_extension(c_api, _TYPE)
    if link is None:
        return None
    extension = ctypes.cast(link, ctypes.POINTER(_StatisticsExtension)).contents
    counts: dict[str, int] = {}
    name, value = ctypes.c_char_p(), ctypes.c_int64()
    while extension.read(len(counts), ctypes.byref(name), ctypes.byref(value)):
        counts[(name.value or b"").decode()] = value.value
    return counts
