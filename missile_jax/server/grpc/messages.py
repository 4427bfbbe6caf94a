"""Infer requests and responses of the Open Inference Protocol v2, to and from protobuf messages.

Tensors are sent raw, and read raw or from typed contents. Raw contents stand in a list of their
own, in the order of the inputs that have any: those in shared memory have none. A response has one
for each output, empty where the output went to shared memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from missile_jax.options import LimitOptions
from missile_jax.server import parameters as parameter
from missile_jax.server.codec import InferRequest, InferResponse
from missile_jax.server.limits import check_message
from missile_jax.server.shared_memory import OFF, Reader, Regions, Slice, slice_in
from missile_jax.server.tensors import (
    DTYPES,
    CodecError,
    check_shape,
    datatype_of,
    from_bytes,
    from_elements,
    from_json,
    to_bytes,
)

_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def decode_request(
    message: pb.ModelInferRequest,
    regions: Regions = OFF,
    limits: LimitOptions = LimitOptions(),
) -> InferRequest:
    """The request in `message`; inputs that lie in `regions` are read from there.

    Raises CodecError; RegionError.
    """
    check_message(message, limits)
    parameters = plain(message.parameters)
    parameter.check("request", parameters)
    inputs = _tensors("input", message.inputs, message.raw_input_contents, regions.reader())
    if not inputs:
        raise CodecError("request: inputs must name at least one tensor")
    outputs, slices = _requested(message.outputs, regions)
    return InferRequest(
        inputs,
        message.id,
        outputs,
        True,
        parameter.timeout_us(parameters),
        parameter.priority(parameters),
        slices,
    )


def encode_request(
    request: InferRequest, model_name: str, model_version: str = ""
) -> pb.ModelInferRequest:
    """`request` for a model, its inputs raw. Inverse of `decode_request`."""
    message = pb.ModelInferRequest(
        model_name=model_name, model_version=model_version, id=request.id
    )
    if request.timeout_us is not None:
        message.parameters["timeout"].int64_param = request.timeout_us
    if request.priority is not None:
        _set(message.parameters["priority"], request.priority)
    for name, array in request.inputs.items():
        message.inputs.add(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
        message.raw_input_contents.append(bytes(to_bytes(array)))
    for name in request.outputs or ():
        output = message.outputs.add(name=name)
        if name in request.slices:
            _place(output, request.slices[name])
    return message


def decode_response(message: pb.ModelInferResponse, regions: Regions = OFF) -> InferResponse:
    """The response in `message`. Raises CodecError; RegionError. Inverse of `encode_response`."""
    raw = [
        content
        for output, content in zip(message.outputs, message.raw_output_contents, strict=False)
        if "shared_memory_region" not in output.parameters
    ]
    outputs = _tensors("output", message.outputs, raw, regions.reader())
    return InferResponse(message.model_name, outputs, message.model_version, message.id)


def encode_response(
    response: InferResponse, request: InferRequest, regions: Regions = OFF
) -> pb.ModelInferResponse:
    """`response`, its outputs raw; those that `request` wants in `regions` are written there.

    Raises CodecError for a dtype that the protocol has no name for; RegionError.
    """
    message = pb.ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version, id=response.id
    )
    for name, array in response.outputs.items():
        output = message.outputs.add(
            name=name, datatype=datatype_of(array.dtype), shape=array.shape
        )
        raw = to_bytes(array)
        if name in request.slices:
            _place(output, regions.write(request.slices[name], raw))
            raw = b""
        message.raw_output_contents.append(bytes(raw))
    return message


def plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as plain values, those that have one."""
    if not parameters:
        return {}
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in parameters.items()}
    return {name: getattr(parameters[name], choice) for name, choice in chosen.items() if choice}


def _tensors(
    kind: str, tensors: Sequence[Any], raw: Sequence[bytes], reader: Reader
) -> dict[str, np.ndarray]:
    contents = iter(raw) if raw else None
    arrays: dict[str, np.ndarray] = {}
    for tensor in tensors:
        where = f"{kind} {tensor.name!r}"
        if tensor.name in arrays:
            raise CodecError(f"{where} is named twice")
        shape = check_shape(where, list(tensor.shape))
        parameters = plain(tensor.parameters)
        parameter.check(where, parameters)
        part = slice_in(where, parameters)
        if part is None and contents is None:
            arrays[tensor.name] = _typed(where, tensor.datatype, shape, tensor.contents)
            continue
        if tensor.HasField("contents"):
            raise CodecError(
                f"{where}: give one of contents, raw_{kind}_contents and shared_memory_region"
            )
        data = _next(where, kind, contents) if part is None else reader.read(part)
        arrays[tensor.name] = from_bytes(where, tensor.datatype, shape, data, 0, len(data))
    if contents is not None and next(contents, None) is not None:
        raise CodecError(f"raw_{kind}_contents has more entries than there are {kind}s for them")
    return arrays


def _next(where: str, kind: str, contents: Iterator[bytes] | None) -> bytes:
    data = None if contents is None else next(contents, None)
    if data is None:
        raise CodecError(f"{where}: raw_{kind}_contents has no entry for it")
    return data


def _typed(where: str, datatype: str, shape: tuple[int, ...], contents: Any) -> np.ndarray:
    """The tensor in the one field of `contents` that is its datatype's."""
    if datatype in DTYPES and datatype not in _CONTENTS:
        raise CodecError(f"{where}: {datatype} is sent in raw contents only")
    field = _CONTENTS.get(datatype)
    filled = [descriptor.name for descriptor, _ in contents.ListFields()]
    if field is not None and filled not in ([], [field]):
        raise CodecError(f"{where}: contents of {datatype} are {field}, got {', '.join(filled)}")
    values = [] if field is None else list(getattr(contents, field))
    if datatype == "BYTES":
        return from_elements(where, values, shape)
    return from_json(where, datatype, shape, values)


def _requested(
    entries: Sequence[Any], regions: Regions
) -> tuple[dict[str, bool] | None, dict[str, Slice]]:
    outputs: dict[str, bool] = {}
    slices: dict[str, Slice] = {}
    for entry in entries:
        where = f"output {entry.name!r}"
        if entry.name in outputs:
            raise CodecError(f"{where} is named twice")
        parameters = plain(entry.parameters)
        parameter.check(where, parameters)
        outputs[entry.name] = True
        part = slice_in(where, parameters)
        if part is not None:
            regions.check(part)
            slices[entry.name] = part
    return outputs or None, slices


def _place(output: Any, part: Slice) -> None:
    for name, value in part.parameters().items():
        _set(output.parameters[name], value)


def _set(parameter: pb.InferParameter, value: str | int) -> None:
    if isinstance(value, str):
        parameter.string_param = value
    else:
        parameter.int64_param = value
