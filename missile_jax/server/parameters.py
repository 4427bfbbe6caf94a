"""Parameters of a request or a tensor: plain values by name, whichever transport they came by.

Those that are not known here are ignored, except those that would change the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from missile_jax.server.tensors import CodecError


def check(where: str, parameters: Mapping[str, Any]) -> None:
    """Raises CodecError for a parameter that changes the answer in a way that is not supported."""
    if parameters.get("classification"):
        raise CodecError(f"{where}: parameter classification is not supported")


def flag(where: str, parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    """A parameter that is true or false. Raises CodecError for any other value."""
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise CodecError(f"{where}: parameter {name} must be true or false")
    return value


def size(where: str, parameters: Mapping[str, Any], name: str, default: Any = None) -> int:
    """A parameter that counts bytes. Raises CodecError unless it is a whole number, 0 or more."""
    value = parameters.get(name, default)
    if type(value) is not int or value < 0:
        raise CodecError(
            f"{where}: parameter {name} must be a whole number of bytes, 0 or more, got {value!r}"
        )
    return value


def timeout_us(parameters: Mapping[str, Any]) -> int | None:
    """A request's ``timeout``; None for no limit. Raises CodecError."""
    value = parameters.get("timeout", 0)
    if type(value) is not int or not 0 <= value < 2**63:
        raise CodecError(
            "request: parameter timeout must be a whole number of microseconds below 2**63; 0: none"
        )
    return value or None


def priority(parameters: Mapping[str, Any]) -> str | int | None:
    """A request's ``priority``; None for the model's own. Raises CodecError."""
    value = parameters.get("priority")
    if value is None or type(value) is str:
        return value or None
    if type(value) is not int or value < 0:
        raise CodecError(
            "request: parameter priority must be a whole number, 0 for the model's own, or a name"
        )
    return value or None
