"""Infer requests and responses of the Open Inference Protocol v2, to and from HTTP bodies.

A body is a JSON object. With the binary tensor extension the raw bytes of some tensors follow it,
in the order in which the object names them. The header ``Inference-Header-Content-Length`` says
where the object ends, each such tensor's ``parameters.binary_data_size`` how many bytes it has.
A tensor may lie in shared memory instead. Members and parameters that are not known here are
ignored, except those that change the answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import orjson

from missile_jax.options import LimitOptions
from missile_jax.server import parameters as parameter
from missile_jax.server.limits import check_document
from missile_jax.server.shared_memory import OFF, Reader, Regions, Slice, slice_in
from missile_jax.server.tensors import (
    CodecError,
    check_shape,
    datatype_of,
    from_bytes,
    from_json,
    to_bytes,
    to_json,
)

_NOWHERE: Mapping[str, Slice] = MappingProxyType({})


# Named tuples, since there are two to each request and a frozen dataclass takes longer to make.
class InferRequest(NamedTuple):
    """What a client asks of one model.

    inputs: arrays by tensor name; binary ones are read-only views of the request's body.
    id: echoed in the response; empty for none.
    outputs: names to return, in this order, each with whether it is to be binary; None for all.
    binary: whether the outputs are to be binary where `outputs` is None.
    timeout_us: microseconds from arrival after which the answer is of no use; None for no limit.
    priority: see `Runtime.submit`; None for the model's own.
    slices: where outputs go that are not to be sent but put into shared memory, by name.
    """

    inputs: Mapping[str, np.ndarray]
    id: str = ""
    outputs: Mapping[str, bool] | None = None
    binary: bool = False
    timeout_us: int | None = None
    priority: str | int | None = None
    slices: Mapping[str, Slice] = _NOWHERE

    def wants_binary(self, name: str) -> bool:
        """Whether the output of this name is to be sent as raw bytes."""
        return self.binary if self.outputs is None else self.outputs.get(name, self.binary)


class InferResponse(NamedTuple):
    """One model's answer: `outputs` are arrays by tensor name, in the order they are sent."""

    model_name: str
    outputs: Mapping[str, np.ndarray]
    model_version: str = "1"
    id: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the outputs; of BYTES, those of its pointers."""
        return sum([array.nbytes for array in self.outputs.values()])


def decode_request(
    body: bytes,
    header_length: int | None = None,
    regions: Regions = OFF,
    limits: LimitOptions = LimitOptions(),
) -> InferRequest:
    """The request in `body`, whose JSON ends at `header_length` bytes (None: at its end).

    Inputs that lie in `regions` are read from there. Raises CodecError; RegionError.
    """
    document, tail = _split(body, header_length)
    check_document(document, tail, limits)
    parameters = _parameters("request", document)
    binary = parameter.flag("request", parameters, "binary_data_output", False)
    inputs = _tensors("input", document.get("inputs"), body, tail, regions.reader())
    if not inputs:
        raise CodecError("request: inputs must name at least one tensor")
    outputs, slices = _requested(document.get("outputs"), binary, regions)
    return InferRequest(
        inputs,
        _text("request", document, "id"),
        outputs,
        binary,
        parameter.timeout_us(parameters),
        parameter.priority(parameters),
        slices,
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
    if request.priority is not None:
        parameters["priority"] = request.priority
    document: dict[str, Any] = {"parameters": parameters} if parameters else {}
    if request.id:
        document["id"] = request.id
    if request.outputs is not None:
        document["outputs"] = [
            {"name": name, "parameters": {"binary_data": flag} | _placed(request, name)}
            for name, flag in request.outputs.items()
        ]
    text, tensors, length = _parts(document, "inputs", request.inputs, lambda _: binary, {}, OFF)
    return b"".join((text, *tensors)), length


def decode_response(
    body: bytes, header_length: int | None = None, regions: Regions = OFF
) -> InferResponse:
    """The response in `body`. Raises CodecError; RegionError. Inverse of `encode_response`."""
    document, tail = _split(body, header_length)
    outputs = _tensors("output", document.get("outputs"), body, tail, regions.reader())
    return InferResponse(
        _text("response", document, "model_name"),
        outputs,
        _text("response", document, "model_version"),
        _text("response", document, "id"),
    )


def encode_response(
    response: InferResponse, request: InferRequest, regions: Regions = OFF
) -> tuple[bytes, int | None]:
    """The body of `response`, each output as `request` wants it, and the length of its JSON part.

    The length is None where the whole body is JSON. Outputs that `request` wants in `regions` are
    written there. Raises CodecError for an output that the protocol cannot carry in that form;
    RegionError.
    """
    text, tensors, length = encode_parts(response, request, regions)
    return b"".join((text, *tensors)) if tensors else text, length


def encode_parts(
    response: InferResponse, request: InferRequest, regions: Regions = OFF
) -> tuple[bytes, list[memoryview], int | None]:
    """`encode_response` in parts: the JSON, what follows it, and the length of the JSON.

    What follows are views of the outputs as flat bytes, so that large ones are not copied.
    """
    document: dict[str, Any] = {
        "model_name": response.model_name,
        "model_version": response.model_version,
    }
    if response.id:
        document["id"] = response.id
    return _parts(
        document, "outputs", response.outputs, request.wants_binary, request.slices, regions
    )


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


def _tensors(
    kind: str, entries: Any, body: bytes, at: int, reader: Reader
) -> dict[str, np.ndarray]:
    if type(entries) is not list:
        raise CodecError(f"{kind}s must be a list of tensors")
    tensors: dict[str, np.ndarray] = {}
    for entry in entries:
        name = _name(kind, entry, tensors)
        where = f"{kind} {name!r}"
        shape = check_shape(where, entry.get("shape"))
        datatype = entry.get("datatype")
        parameters = _parameters(where, entry)
        size = parameters.get("binary_data_size")
        part = slice_in(where, parameters)
        if ("data" in entry) + (size is not None) + (part is not None) > 1:
            raise CodecError(
                f"{where}: give one of data, binary_data_size and shared_memory_region"
            )
        if part is not None:
            raw = reader.read(part)
            tensors[name] = from_bytes(where, datatype, shape, raw, 0, len(raw))
            continue
        if size is None:
            tensors[name] = from_json(where, datatype, shape, entry.get("data"))
            continue
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


def _requested(
    entries: Any, default: bool, regions: Regions
) -> tuple[dict[str, bool] | None, Mapping[str, Slice]]:
    if not entries and (entries is None or type(entries) is list):
        return None, _NOWHERE
    if type(entries) is not list:
        raise CodecError("outputs must be a list of names")
    slices: dict[str, Slice] = {}
    outputs: dict[str, bool] = {}
    for entry in entries:
        name = _name("output", entry, outputs)
        where = f"output {name!r}"
        parameters = _parameters(where, entry)
        outputs[name] = parameter.flag(where, parameters, "binary_data", default)
        part = slice_in(where, parameters)
        if part is not None:
            regions.check(part)
            slices[name] = part
    return outputs, slices


def _placed(request: InferRequest, name: str) -> dict[str, str | int]:
    return request.slices[name].parameters() if name in request.slices else {}


def _parts(
    document: dict[str, Any],
    key: str,
    tensors: Mapping[str, np.ndarray],
    binary: Any,
    slices: Mapping[str, Slice],
    regions: Regions,
) -> tuple[bytes, list[memoryview], int | None]:
    entries = []
    parts: list[memoryview] = []
    for name, array in tensors.items():
        entry: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of(array.dtype),
            "shape": array.shape,
        }
        if name in slices:
            entry["parameters"] = regions.write(slices[name], to_bytes(array)).parameters()
        elif binary(name):
            raw = memoryview(to_bytes(array))
            entry["parameters"] = {"binary_data_size": len(raw)}
            parts.append(raw)
        else:
            entry["data"] = to_json(f"{key[:-1]} {name!r}", array)
        entries.append(entry)
    document[key] = entries
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return text, parts, len(text) if parts else None


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
    parameter.check(where, parameters)
    return parameters


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
