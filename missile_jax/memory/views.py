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

_CPU = 1  # DLPack's number for memory of the host.
_PROBE = np.arange(16, dtype=np.float32)


def array_maker(device: JaxDevice) -> partial[jax.Array]:
    """A function that makes an array on `device`, a CPU, of a capsule without a copy.

    JAX's private function is used if it takes arguments as one of the known versions did; else the
    public one.
    """
    try:
        from jaxlib._jax import dlpack_managed_tensor_to_buffer as private
    except ImportError:
        return partial(_public, device)
    for arguments in ((None, False), (None, False, _CPU), (None,)):
        try:
            array = private(_native.stack_rows([_PROBE], 16).__dlpack__(), device, *arguments)
        except TypeError:
            continue
        if isinstance(array, jax.Array):
            return partial(_private, private, device, arguments)
    return partial(_public, device)


def _private(
    make: Callable[..., jax.Array], device: JaxDevice, arguments: tuple[Any, ...], capsule: Any
) -> jax.Array:
    return make(capsule, device, *arguments)


class _Wrapped:
    """What `from_dlpack` wants to see of a capsule."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_CPU, 0)


def _public(device: JaxDevice, capsule: Any) -> jax.Array:
    return from_dlpack(_Wrapped(capsule), device=device, copy=False)
