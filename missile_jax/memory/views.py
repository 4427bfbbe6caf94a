"""From a DLPack capsule to a jax.Array: JAX's private way, which takes a few us, in one place.

`jax.dlpack.from_dlpack` takes ten times as long an array, and a swapped-in model has hundreds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.dlpack import from_dlpack

from missile_jax import _native
from missile_jax.spec import JaxDevice

# DLPack's numbers for memory of the host and of a CUDA device.
_CPU, _CUDA = 1, 2
_PROBE = np.arange(16, dtype=np.float32)


def array_maker(device: JaxDevice) -> partial[jax.Array]:
    """A function that makes an array on `device` of a capsule without a copy.

    The capsule's bytes lie on `device`, a CPU or a CUDA GPU, and are complete: nothing waits for
    them. JAX's private function is used if it takes arguments as one of the known versions did;
    else the public one.
    """
    try:
        from jaxlib._jax import dlpack_managed_tensor_to_buffer as private
    except ImportError:
        return partial(_public, device)
    stream, (kind, _) = _stream(device), _dlpack_device(device)
    for arguments in ((stream, False), (stream, False, kind), (stream,)):
        try:
            array = private(_probe(device), device, *arguments)
        except TypeError:
            continue
        if isinstance(array, jax.Array):
            return partial(_private, private, device, arguments)
    return partial(_public, device)


def _dlpack_device(device: JaxDevice) -> tuple[int, int]:
    """DLPack's (device_type, device_id)."""
    return (_CPU, 0) if device.platform == "cpu" else (_CUDA, device.local_hardware_id)


def _stream(device: JaxDevice) -> int | None:
    """Where XLA is to look for events of others; a CPU has none."""
    return None if device.platform == "cpu" else device.get_stream_for_external_ready_events()


def _probe(device: JaxDevice) -> Any:
    """A capsule of memory on `device`."""
    if device.platform == "cpu":
        return _native.stack_rows([_PROBE], 16).__dlpack__()
    return jax.device_put(_PROBE, device).__dlpack__()


def _private(
    make: Callable[..., jax.Array], device: JaxDevice, arguments: tuple[Any, ...], capsule: Any
) -> jax.Array:
    return make(capsule, device, *arguments)


class _Wrapped:
    """What `from_dlpack` wants to see of a capsule."""

    def __init__(self, device: JaxDevice, capsule: Any) -> None:
        self._device = device
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _dlpack_device(self._device)


def _public(device: JaxDevice, capsule: Any) -> jax.Array:
    return from_dlpack(_Wrapped(device, capsule), device=device, copy=False)
