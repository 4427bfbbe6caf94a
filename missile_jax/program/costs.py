"""What an equation costs: measured where that matters, from bytes and operations elsewhere.

Measured costs are kept on disk for each kind of machine. That saves time, and it keeps plans the
same from run to run: the same cuts find their executables in JAX's persistent cache.
"""

from __future__ import annotations

import json
import math
import os
import platform
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.extend import core as jex

from missile_jax.program.compile import compile_flat
from missile_jax.program.signature import Signature, eqn_signature
from missile_jax.program.trace import flat_jaxpr, shape_of
from missile_jax.spec import JaxDevice

# Rates for what is not measured, of one slow core: they only have to tell small from large.
_BYTES_PER_NS = 6.0
_FLOPS_PER_NS = 20.0
_DISPATCH_NS = 2_000
# Equations estimated below this are not worth a compilation to measure.
_MEASURE_ABOVE_NS = 100_000
_RUNS = 10
_ENOUGH_NS = 300_000_000
# These compile into loops over elements, so bytes tell their cost well enough.
_BY_BYTES = frozenset(
    (
        "reshape broadcast_in_dim squeeze expand_dims transpose slice concatenate pad copy "
        "iota rev stop_gradient add sub mul div max min neg select_n convert_element_type and "
        "or not eq ne lt le gt ge abs sign square integer_pow"
    ).split()
)


class Costs(Protocol):
    """Tells what an equation costs."""

    def cost_ns(self, eqn: jex.JaxprEqn) -> int: ...


class EstimatedCosts:
    """From bytes and operations alone: for a device that is not here to measure on."""

    def cost_ns(self, eqn: jex.JaxprEqn) -> int:
        return estimate_ns(eqn)


class MeasuredCosts:
    """Measured on `device`, each kind of equation once, and remembered in `directory`."""

    def __init__(self, device: JaxDevice, directory: Path) -> None:
        self._device = device
        kind = Signature().add(device.platform, device.device_kind, platform.processor())
        kind.add(_cpu_model(), os.cpu_count() or 1, jax.__version__)
        self._path = directory / f"{kind.digest()[:16]}.json"
        self._lock = threading.Lock()
        self._known = _read(self._path)

    def cost_ns(self, eqn: jex.JaxprEqn) -> int:
        estimate = estimate_ns(eqn)
        # A while loop may not end on made-up operands, and a function of the user's is not to see
        # them: the plan's own profile measures both.
        if estimate < _MEASURE_ABOVE_NS or eqn.primitive.name in _BY_BYTES or unsteady(eqn):
            return estimate
        key = eqn_signature(eqn)
        with self._lock:
            if key not in self._known:
                self._known[key] = self._measure(eqn)
            return self._known[key]

    def save(self) -> None:
        """Writes what was measured, merged with what other processes wrote meanwhile.

        Warns where it can not be written: then it is measured again the next time.
        """
        with self._lock:
            self._known = {**_read(self._path), **self._known}
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                handle, name = tempfile.mkstemp(dir=self._path.parent, suffix=".json")
                with os.fdopen(handle, "w") as file:
                    json.dump(self._known, file)
                os.replace(name, self._path)
            except OSError as error:
                warnings.warn(f"measured costs are not kept: {error}", stacklevel=2)

    def _measure(self, eqn: jex.JaxprEqn) -> int:
        free = list(dict.fromkeys(v for v in eqn.invars if not isinstance(v, jex.Literal)))
        executable = compile_flat(flat_jaxpr([eqn], free, eqn.outvars), self._device)
        operands = [jax.device_put(_operand(v.aval), self._device) for v in free]
        jax.block_until_ready(executable.call(*operands))
        # The least of several: on a busy machine a mean would make too many cuts.
        best, spent = math.inf, 0
        for _ in range(_RUNS):
            start = time.perf_counter_ns()
            jax.block_until_ready(executable.call(*operands))
            taken = time.perf_counter_ns() - start
            best, spent = min(best, taken), spent + taken
            if spent > _ENOUGH_NS:
                break
        return int(best)


def estimate_ns(eqn: jex.JaxprEqn) -> int:
    """From bytes moved and operations done; an upper guess for loops of unknown length."""
    size = sum(bytes_of(a.aval) for a in (*eqn.invars, *eqn.outvars))
    return int(_DISPATCH_NS + size / _BYTES_PER_NS + operations(eqn) / _FLOPS_PER_NS)


def operations(eqn: jex.JaxprEqn) -> float:
    """Floating-point operations, those of inner programs included; a guess for what is not a
    product."""
    out = math.prod(shape_of(eqn.outvars[0])) if eqn.outvars else 0
    if eqn.primitive.name == "dot_general":
        (contract, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * out * math.prod(shape_of(eqn.invars[0])[d] for d in contract)
    if eqn.primitive.name == "conv_general_dilated":
        kernel = shape_of(eqn.invars[1])
        return 2.0 * out * math.prod(kernel) / kernel[eqn.params["dimension_numbers"][1][0]]
    inner = sum(
        operations(e) + math.prod(shape_of(v) if (v := e.outvars[0]) else ())
        for j in jex.jaxprs_in_params(eqn.params)
        for e in j.eqns
        if e.outvars
    )
    if inner:
        return inner * eqn.params.get("length", 1)
    return 4.0 * out


def unsteady(eqn: jex.JaxprEqn) -> bool:
    """Whether the time it takes is not to be foretold: a while loop, or a function on the host."""
    if eqn.primitive.name in ("while", "pure_callback"):
        return True
    return any(unsteady(e) for j in jex.jaxprs_in_params(eqn.params) for e in j.eqns)


def bytes_of(aval: Any) -> int:
    """Of an abstract array; 4 an element where it has no dtype."""
    return math.prod(getattr(aval, "shape", ())) * getattr(
        getattr(aval, "dtype", None), "itemsize", 4
    )


def _operand(aval: Any) -> Any:
    # A constant away from zero, one and denormals; whole numbers are indices, so zero.
    if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return (
            jax.random.key(0) if not aval.shape else jax.random.split(jax.random.key(0), aval.shape)
        )
    fill = 0.5 if jax.numpy.issubdtype(aval.dtype, jax.numpy.inexact) else 0
    return np.full(aval.shape, fill, aval.dtype)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("model name")), "")


def _read(path: Path) -> dict[str, int]:
    try:
        known = json.loads(path.read_text())
        return {str(k): int(v) for k, v in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
