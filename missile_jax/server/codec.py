"""Infer requests and responses of the Open Inference Protocol v2, to and from HTTP bodies.

A body is a JSON object. With the binary tensor extension the raw bytes of some tensors follow it,
in the order in which the object names them. The header ``Inference-Header-Content-Length`` says
where the object ends, each such tensor's ``parameters.binary_data_size`` how many bytes it has.
Members and parameters that are not known here are ignored, except those that change the answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from missile_jax.server.tensors import (
    CodecError,
    check_shape,
    datatype_of,
    from_bytes,
    from_json,
    to_bytes,
    to_json,
)

MAX_TENSORS = 1024
_CHANGES_THE_ANSWER = ("shared_memory_region", "classification")


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a client asks of one model.

    inputs: arrays by tensor name; binary ones are read-only views of the request's body.
    id: echoed in the response; empty for none.
    outputs: names to return, in this order, each with whether it is to be binary; None for all.
    binary: whether the outputs are to be binary where `outputs` is None.
    timeout_us: microseconds from arrival after which the answer is of no use; None for no limit.
    priority: see `Runtime.submit`.
    """

    inputs: Mapping[str, np.ndarray]
    id: str = ""
    outputs: Mapping[str, bool] | None = None
    binary: bool = False
    timeout_us: int | None = None
    priority: int | str | None = None

    def wants_binary(self, name: str) -> bool:
        """Whether the output of this name is to be sent as raw bytes."""
        return self.binary if self.outputs is None else self.outputs.get(name, self.binary)


@dataclass(frozen=True, slots=True)
class InferResponse:
    """One model's answer: `outputs` are arrays by tensor name, in the order they are sent."""

    model_name: str
    outputs: Mapping[str, np.ndarray]
    model_version: str = "1"
    id: str = ""


def decode_request(body: bytes, header_length: int | None = None) -> InferRequest:
    """The request in `body`, whose JSON ends at `header_length` bytes (None: at its end).

    Raises CodecError.
    """
    document, tail = _split(body, header_length)
    parameters = _parameters("request", document)
    binary = _flag("request", parameters, "binary_data_output", False)
    inputs = _tensors("input", document.get("inputs"), body, tail)
    if not inputs:
        raise CodecError("request: inputs must name at least one tensor")
    return InferRequest(
        inputs,
        _text("request", document, "id"),
        _requested(document.get("outputs"), binary),
        binary,
        _timeout(parameters),
    )


def encode_request(request: InferRequest, *, binary: bool = True) -> tuple[bytes, int | None]:
    """The body of `request`, its inputs all binary or all in JSON, and the length of its JSON part.

    The length is None where the whole body is JSON. Inverse of `decode_request`.
    """
    parameters: dict[str, Any] = {}
    if request.binary:
        parameters["binary_data_output"] = True
    if request.timeout_us is not None:
        parameters["timeout"] = request.timeout_us
    document: dict[str, Any] = {"parameters": parameters} if parameters else {}
    if request.id:
        document["id"] = request.id
    if request.outputs is not None:
        document["outputs"] = [
            {"name": name, "parameters": {"binary_data": flag}}
            for name, flag in request.outputs.items()
        ]
    return _join(document, "inputs", request.inputs, lambda _: binary)


def decode_response(body: bytes, header_length: int | None = None) -> InferResponse:
    """The response in `body`. Raises CodecError. Inverse of `encode_response`."""
    document, tail = _split(body, header_length)
    outputs = _tensors("output", document.get("outputs"), body, tail)
    return InferResponse(
        _text("response", document, "model_name"),
        outputs,
        _text("response", document, "model_version"),
        _text("response", document, "id"),
    )


def encode_response(response: InferResponse, request: InferRequest) -> tuple[bytes, int | None]:
    """The body of `response`, each output as `request` wants it, and the length of its JSON part.

    The length is None where the whole body is JSON. Raises CodecError for an output that the
    protocol cannot carry in that form.
    """
    document: dict[str, Any] = {
        "model_name": response.model_name,
        "model_version": response.model_version,
    }
    if response.id:
        document["id"] = response.id
    return _join(document, "outputs", response.outputs, request.wants_binary)


def _split(body: bytes, header_length: int | None) -> tuple[dict[str, Any], int]:
    if header_length is None or header_length == len(body):
        text, end = body, len(body)
    elif 0 <= header_length < len(body):
        text, end = memoryview(body)[:header_length], header_length
    else:
        raise CodecError(
            f"Inference-Header-Content-Length is {header_length}, "
            f"outside 0 to the body's {len(body)} bytes"
        )
    document = _parse(text)
    if type(document) is not dict:
        raise CodecError("the body must be a JSON object")
    return document, end


def _parse(text: bytes | memoryview) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        problem = str(error)
    # Clients of this protocol write bare NaN and Infinity, which is not JSON; only then is the
    # slower parser that takes them tried.
    data = bytes(text)
    if b"NaN" in data or b"Infinity" in data:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            pass
    raise CodecError(f"the body is not JSON: {problem}")


def _tensors(kind: str, entries: Any, body: bytes, at: int) -> dict[str, np.ndarray]:
    if type(entries) is not list or len(entries) > MAX_TENSORS:
        raise CodecError(f"{kind}s must be a list of at most {MAX_TENSORS} tensors")
    tensors: dict[str, np.ndarray] = {}
    for entry in entries:
        name = _name(kind, entry, tensors)
        where = f"{kind} {name!r}"
        shape = check_shape(where, entry.get("shape"))
        datatype = entry.get("datatype")
        size = _parameters(where, entry).get("binary_data_size")
        if size is None:
            tensors[name] = from_json(where, datatype, shape, entry.get("data"))
            continue
        if "data" in entry:
            raise CodecError(f"{where}: give data or binary_data_size, not both")
        if type(size) is not int or not 0 <= size <= len(body) - at:
            raise CodecError(
                f"{where}: binary_data_size {size!r} is outside 0 to {len(body) - at}, "
                "the bytes that are left"
            )
        tensors[name] = from_bytes(where, datatype, shape, body, at, at + size)
        at += size
    if at != len(body):
        raise CodecError(f"{len(body) - at} bytes follow the last tensor")
    return tensors


def _requested(entries: Any, default: bool) -> dict[str, bool] | None:
    if not entries and (entries is None or type(entries) is list):
        return None
    if type(entries) is not list or len(entries) > MAX_TENSORS:
        raise CodecError(f"outputs must be a list of at most {MAX_TENSORS} names")
    outputs: dict[str, bool] = {}
    for entry in entries:
        name = _name("output", entry, outputs)
        where = f"output {name!r}"
        outputs[name] = _flag(where, _parameters(where, entry), "binary_data", default)
    return outputs


def _join(
    document: dict[str, Any], key: str, tensors: Mapping[str, np.ndarray], binary: Any
) -> tuple[bytes, int | None]:
    entries = []
    parts: list[bytes | memoryview] = [b""]
    for name, array in tensors.items():
        entry: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of(array.dtype),
            "shape": array.shape,
        }
        if binary(name):
            raw = to_bytes(array)
            entry["parameters"] = {"binary_data_size": memoryview(raw).nbytes}
            parts.append(raw)
        else:
            entry["data"] = to_json(f"{key[:-1]} {name!r}", array)
        entries.append(entry)
    document[key] = entries
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if len(parts) == 1:
        return text, None
    parts[0] = text
    return b"".join(parts), len(text)


def _name(kind: str, entry: Any, taken: Mapping[str, Any]) -> str:
    if type(entry) is not dict or type(entry.get("name")) is not str:
        raise CodecError(f"each {kind} must be an object with a name")
    name = entry["name"]
    if name in taken:
        raise CodecError(f"{kind} {name!r} is named twice")
    return name


def _parameters(where: str, entry: dict[str, Any]) -> dict[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise CodecError(f"{where}: parameters must be an object")
    for name in _CHANGES_THE_ANSWER:
        if parameters.get(name):
            raise CodecError(f"{where}: parameter {name} is not supported")
    return parameters


def _flag(where: str, parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise CodecError(f"{where}: parameter {name} must be true or false")
    return value


def _text(where: str, document: dict[str, Any], name: str) -> str:
    value = document.get(name, "")
    if type(value) is not str or not (value.isascii() or _encodable(value)):
        raise CodecError(f"{where}: {name} must be a string")
    return value


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _timeout(parameters: dict[str, Any]) -> int | None:
    value = parameters.get("timeout", 0)
    if type(value) is not int or value < 0:
        raise CodecError(
            "request: parameter timeout must be a whole number of microseconds, 0 for none"
        )
    return value or None
