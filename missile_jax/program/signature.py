"""Structural keys: two jaxprs of one key compile to the same executable."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from missile_jax.program.trace import called


class Signature:
    """Feeds a hash with everything of a program that matters, variables numbered by first use.

    Devices, and functions among an equation's parameters, are told apart by identity; `keep` holds
    them, so that an id can not be used again while the key is in use.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.keep: list[Any] = []

    def add(self, *values: Any) -> Signature:
        for value in values:
            self._feed(value)
        return self

    def digest(self) -> str:
        return self._hash.hexdigest()

    def _text(self, text: str) -> None:
        self._hash.update(text.encode() + b"\0")

    def _feed(self, value: Any) -> None:
        if isinstance(value, jex.ClosedJaxpr | jex.Jaxpr):
            # From jax 0.12 on the two are one class.
            jaxpr = getattr(value, "jaxpr", value)
            self._jaxpr([*jaxpr.constvars, *jaxpr.invars], jaxpr.eqns, jaxpr.outvars)
            self._feed(list(getattr(value, "consts", ())))
        elif isinstance(value, np.ndarray | jax.Array | np.generic):
            host = np.asarray(value)
            self._text(f"array{host.shape}{host.dtype}")
            self._hash.update(host.tobytes())
        elif isinstance(value, dict):
            self._text("dict")
            for key in sorted(value, key=str):
                self._text(str(key))
                self._feed(value[key])
        elif isinstance(value, tuple | list):
            self._text(f"{type(value).__name__}{len(value)}")
            for item in value:
                self._feed(item)
        elif isinstance(value, str | bytes | int | float | complex | bool | type(None) | np.dtype):
            self._text(f"{type(value).__name__}:{value!r}")
        elif isinstance(value, jax.Device) or (callable(value) and not isinstance(value, type)):
            self.keep.append(value)
            self._text(f"id:{id(value)}")
        else:
            self.keep.append(value)
            self._text(f"{type(value).__qualname__}:{value!r}")

    def _jaxpr(self, invars: Iterable[Any], eqns: Iterable[Any], outvars: Iterable[Any]) -> None:
        numbers: dict[Any, int] = {}

        def atom(a: Any) -> None:
            if isinstance(a, jex.Literal):
                self._text(f"lit:{a.aval}")
                self._feed(a.val)
            else:
                self._text(f"v{numbers.setdefault(a, len(numbers))}:{a.aval}")

        for var in invars:
            atom(var)
        for eqn in eqns:
            self._text(eqn.primitive.name)
            for a in eqn.invars:
                atom(a)
            self._feed(_plain(eqn))
            for var in eqn.outvars:
                atom(var)
        self._text("out")
        for a in outvars:
            atom(a)


def eqn_signature(eqn: jex.JaxprEqn) -> str:
    """Key of one equation by itself: primitive, parameters, shapes and dtypes."""
    signature = Signature().add(eqn.primitive.name, _plain(eqn), [str(a.aval) for a in eqn.invars])
    return signature.digest()


def _plain(eqn: jex.JaxprEqn) -> dict[str, Any]:
    inner = called(eqn)
    if inner is not None:
        # Derivative rules and names change nothing, and are new at each trace.
        return {"calls": inner}
    return {k: v for k, v in eqn.params.items() if k not in ("name", "ctx_mesh")}
