"""Ahead-of-time compilation of flat programs, each distinct one once in a process."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.experimental.layout import Format, Layout
from jax.extend import core as jex

from missile_jax.program.lower import rule_for
from missile_jax.program.signature import Signature
from missile_jax.program.trace import interpret
from missile_jax.spec import JaxDevice


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Executable:
    """A compiled function of flat arguments.

    call: ``call(*arrays) -> list of arrays``.
    temp_bytes, output_bytes: device memory of one launch, from the compiler.
    keep: objects that the cache key names by identity.
    """

    call: Callable[..., list[jax.Array]]
    temp_bytes: int
    output_bytes: int
    keep: tuple[Any, ...]


_cache: weakref.WeakValueDictionary[str, Executable] = weakref.WeakValueDictionary()
_locks: dict[str, threading.Lock] = {}
_guard = threading.Lock()
_compilations = 0


def compilations() -> int:
    """How many executables this process has compiled: shared ones count once."""
    return _compilations


def compile_flat(jaxpr: jex.ClosedJaxpr, device: JaxDevice) -> Executable:
    """Compiles `jaxpr` for `device`, or returns the executable of an equal one that is in use."""
    global _compilations
    signature = Signature().add(jaxpr, device)
    key = signature.digest()
    with _guard:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:
        found = _cache.get(key)
        if found is not None:
            return found
        sharding = jax.sharding.SingleDeviceSharding(device)
        shapes = [
            jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding, weak_type=a.weak_type)
            for a in jaxpr.in_avals
        ]

        def lowered(*args: Any) -> list[Any]:
            return interpret(jaxpr.jaxpr, jaxpr.consts, args, rule_for(device.platform))

        compiled = jax.jit(lowered, out_shardings=sharding).lower(*shapes).compile()
        memory = compiled.memory_analysis()
        executable = Executable(
            compiled,
            getattr(memory, "temp_size_in_bytes", 0),
            getattr(memory, "output_size_in_bytes", 0),
            tuple(signature.keep),
        )
        with _guard:
            _compilations += 1
            _cache[key] = executable
            _locks.pop(key, None)
        return executable


def wanted_orders(jaxpr: jex.ClosedJaxpr, count: int, device: JaxDevice) -> list[tuple[int, ...]]:
    """How the axes of the first `count` arguments should lie in memory for `device`.

    From major to minor for each, as the compiler chooses where it is free to. XLA's CPU compiler
    takes row-major whatever it is given, so it is not asked.
    """
    avals = jaxpr.in_avals
    if device.platform == "cpu":
        return [tuple(range(len(a.shape))) for a in avals[:count]]
    sharding = jax.sharding.SingleDeviceSharding(device)
    free = Format(Layout.AUTO, sharding)
    formats = [free] * count + [sharding] * (len(avals) - count)
    shapes = [
        jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=None if k < count else sharding)
        for k, a in enumerate(avals)
    ]
    chosen = jax.jit(jex.jaxpr_as_fun(jaxpr), in_shardings=formats).lower(*shapes).compile()
    return [tuple(f.layout.major_to_minor) for f in chosen.input_formats[0][:count]]


def persistent_cache(directory: Path) -> None:
    """Turns JAX's persistent compilation cache on, unless the user has set one up already.

    Its compile-time threshold goes to 0, since most segments compile faster than the default.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
