"""How much one inference request may say: its JSON document, or its message.

They are checked before anything is made of a request. What has the wrong type is left to those who
read it next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from missile_jax.options import LimitOptions
from missile_jax.server.tensors import CodecError

# In JSON, with the comma that follows: `"":0,` and `0,`.
_LEAST_PARAMETER_BYTES, _LEAST_ENTRY_BYTES = 5, 2


def check_document(document: Mapping[str, Any], size_bytes: int, limits: LimitOptions) -> None:
    """Raises CodecError for a JSON document of `size_bytes` that is over a limit."""
    if (
        size_bytes <= limits.max_text_chars
        and size_bytes <= limits.max_parameters * _LEAST_PARAMETER_BYTES
        and size_bytes <= limits.max_tensors * _LEAST_ENTRY_BYTES
    ):
        return  # it has no room for too much of anything
    _check_text("request", "id", document.get("id"), limits)
    _check_parameters("request", document.get("parameters"), limits)
    for kind in ("inputs", "outputs"):
        entries = document.get(kind)
        if type(entries) is list:
            _check_count(kind, entries, limits)
            for entry in entries:
                if type(entry) is dict:
                    _check_text(kind, "a name", entry.get("name"), limits)
                    _check_parameters(kind, entry.get("parameters"), limits)


def check_message(message: Any, limits: LimitOptions) -> None:
    """Raises CodecError for a gRPC request over a limit."""
    _check_text("request", "id", message.id, limits)
    _check_values("request", message.parameters, limits)
    for kind, entries in (("inputs", message.inputs), ("outputs", message.outputs)):
        _check_count(kind, entries, limits)
        for entry in entries:
            _check_text(kind, "a name", entry.name, limits)
            _check_values(kind, entry.parameters, limits)


def _check_count(kind: str, entries: Sequence[Any], limits: LimitOptions) -> None:
    if len(entries) > limits.max_tensors:
        raise CodecError(f"{kind} must be at most {limits.max_tensors} tensors, got {len(entries)}")


def _check_parameters(where: str, parameters: Any, limits: LimitOptions) -> None:
    if type(parameters) is dict:
        _check_size(where, parameters, limits)
        for name, value in parameters.items():
            _check_text(where, "a parameter's name", name, limits)
            _check_text(where, "a parameter", value, limits)


def _check_values(where: str, parameters: Mapping[str, Any], limits: LimitOptions) -> None:
    if parameters:
        _check_size(where, parameters, limits)
        for name, value in parameters.items():
            _check_text(where, "a parameter's name", name, limits)
            _check_text(where, "a parameter", value.string_param, limits)


def _check_size(where: str, parameters: Mapping[str, Any], limits: LimitOptions) -> None:
    if len(parameters) > limits.max_parameters:
        raise CodecError(
            f"{where}: at most {limits.max_parameters} parameters, got {len(parameters)}"
        )


def _check_text(where: str, what: str, value: Any, limits: LimitOptions) -> None:
    if type(value) is str and len(value) > limits.max_text_chars:
        raise CodecError(
            f"{where}: {what} must have at most {limits.max_text_chars} characters, "
            f"got {len(value)}"
        )
