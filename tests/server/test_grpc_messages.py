"""Requests and responses to messages and back; malformed messages end in CodecError."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from test_codec import NAMES, TENSORS, tensors_same
from test_tensors import arrays, same
from tritonclient.grpc import service_pb2 as pb

from missile_jax.server.codec import InferRequest, InferResponse
from missile_jax.server.grpc.messages import (
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from missile_jax.server.tensors import DTYPES, CodecError, datatype_of

REQUESTS = st.builds(
    InferRequest,
    inputs=TENSORS,
    id=st.text(max_size=8),
    outputs=st.none() | st.dictionaries(NAMES, st.just(True), min_size=1, max_size=4),
    binary=st.just(True),
    timeout_us=st.none() | st.integers(1, 2**40),
    priority=st.none() | st.integers(1, 9) | st.text(min_size=1, max_size=4),
    slices=st.just({}),
)
CONTENTS = {
    "bool_contents": ["BOOL"],
    "int_contents": ["INT8", "INT16", "INT32"],
    "int64_contents": ["INT64"],
    "uint_contents": ["UINT8", "UINT16", "UINT32"],
    "uint64_contents": ["UINT64"],
    "fp32_contents": ["FP32"],
    "fp64_contents": ["FP64"],
    "bytes_contents": ["BYTES"],
}


def over_the_wire(message):
    return type(message).FromString(message.SerializeToString())


@given(REQUESTS)
def test_request_round_trip(request_):
    message = over_the_wire(encode_request(request_, "net", "1"))
    assert (message.model_name, message.model_version) == ("net", "1")
    back = decode_request(message)
    assert tensors_same(back.inputs, request_.inputs)
    for field in ("id", "outputs", "binary", "timeout_us", "priority", "slices"):
        assert getattr(back, field) == getattr(request_, field)


@given(TENSORS, st.text(max_size=8))
def test_response_round_trip(outputs, identifier):
    response = InferResponse("net", outputs, id=identifier)
    message = encode_response(response, InferRequest({}))
    back = decode_response(over_the_wire(message))
    assert tensors_same(back.outputs, outputs)
    assert (back.model_name, back.model_version, back.id) == ("net", "1", identifier)


def typed(array: np.ndarray) -> pb.ModelInferRequest:
    datatype = datatype_of(array.dtype)
    message = pb.ModelInferRequest()
    tensor = message.inputs.add(name="x", datatype=datatype, shape=array.shape)
    (field,) = (field for field, datatypes in CONTENTS.items() if datatype in datatypes)
    getattr(tensor.contents, field).extend(array.reshape(-1).tolist())
    return message


@given(arrays().filter(lambda array: datatype_of(array.dtype) not in ("FP16", "BF16")))
def test_typed_contents_are_read(array):
    back = decode_request(over_the_wire(typed(array))).inputs["x"]
    if array.dtype.kind == "f":  # which NaN it was is not kept
        np.testing.assert_array_equal(back, array)
        assert back.dtype == array.dtype
    else:
        assert same(back, array)


def test_every_datatype_is_typed_or_raw_only():
    assert {d for datatypes in CONTENTS.values() for d in datatypes} == set(DTYPES) - {
        "FP16",
        "BF16",
    }


def valid() -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(id="7")
    message.inputs.add(name="x", datatype="FP32", shape=[1])
    message.inputs.add(name="y", datatype="INT8", shape=[2])
    message.raw_input_contents.extend([bytes(4), bytes(2)])
    message.outputs.add(name="z")
    return message


def change_x(**fields):
    def change(message):
        old = message.inputs[0]
        new = {"name": old.name, "datatype": old.datatype, "shape": old.shape} | fields
        old.CopyFrom(pb.ModelInferRequest.InferInputTensor(**new))

    return change


def only_typed(datatype, shape, **contents):
    def change(message):
        del message.raw_input_contents[:], message.inputs[:]
        message.inputs.add(name="x", datatype=datatype, shape=shape, contents=contents)

    return change


def set_parameter(name, where=lambda message: message, **value):
    def change(message):
        where(message).parameters[name].CopyFrom(pb.InferParameter(**value))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.inputs.pop(), "more entries than there are inputs"),
        (lambda m: m.raw_input_contents.pop(), "input 'y': raw_input_contents has no entry"),
        (lambda m: m.raw_input_contents.append(b""), "more entries"),
        (change_x(name="y"), "named twice"),
        (change_x(shape=[2]), "4 bytes do not hold FP32"),
        (change_x(shape=[-1]), "0 or more"),
        (change_x(shape=[2**62, 4]), "do not hold FP32"),
        (change_x(shape=[0] * 33), "at most 32 sizes"),
        (change_x(datatype="fp32"), "datatype 'fp32' is unknown"),
        (change_x(contents={"fp32_contents": [1.0]}), "give one of contents"),
        (change_x(datatype="BYTES", shape=[2]), "does not hold exactly 2"),
        (only_typed("FP32", [1]), r"data has shape \[0\], expected a flat list or \[1\]"),
        (only_typed("FP32", [1], fp64_contents=[1.0]), "contents of FP32 are fp32_contents"),
        (only_typed("FP32", [1], fp32_contents=[1.0, 2.0]), r"data has shape \[2\]"),
        (only_typed("INT8", [1], int_contents=[128]), "outside -128 to 127"),
        (only_typed("UINT8", [1], uint_contents=[256]), "outside 0 to 255"),
        (only_typed("FP16", [1], fp32_contents=[1.0]), "FP16 is sent in raw contents only"),
        (only_typed("BYTES", [2], bytes_contents=[b"a"]), "1 elements of BYTES"),
        (only_typed("nope", [1], fp32_contents=[1.0]), "datatype 'nope' is unknown"),
        (only_typed("INT8", [2**62, 2**62, 0]), "too large"),
        (lambda m: m.outputs.add(name="z"), "output 'z' is named twice"),
        (set_parameter("timeout", int64_param=-1), "microseconds"),
        (set_parameter("timeout", string_param="1"), "microseconds"),
        (set_parameter("priority", int64_param=-1), "priority must be a whole number"),
        (set_parameter("priority", bool_param=True), "priority must be a whole number"),
        (
            set_parameter("classification", lambda m: m.outputs[0], int64_param=3),
            "classification is not supported",
        ),
        (
            set_parameter("shared_memory_region", lambda m: m.inputs[0], int64_param=3),
            "shared_memory_region must be a string",
        ),
    ],
)
def test_a_malformed_request_is_told_what_is_wrong(change, message):
    request = valid()
    change(request)
    with pytest.raises(CodecError, match=message):
        decode_request(request)


def test_a_request_without_inputs_is_refused():
    with pytest.raises(CodecError, match="at least one tensor"):
        decode_request(pb.ModelInferRequest())


@pytest.mark.parametrize("kind", ["inputs", "outputs"])
def test_too_many_tensors_are_refused(kind):
    request = valid()
    for i in range(1024):
        getattr(request, kind).add(name=f"t{i}")
    with pytest.raises(CodecError, match=f"{kind} must be at most"):
        decode_request(request)


def test_parameters_that_are_not_set_or_not_known_are_ignored():
    request = valid()
    for name in ("timeout", "priority", "sequence_id"):
        request.parameters[name].CopyFrom(pb.InferParameter())
    request.parameters["sequence_start"].bool_param = True
    assert decode_request(request).timeout_us is None


@given(st.data())
def test_any_bytes_of_a_message_decode_or_raise_codec_error(data):
    raw = bytearray(valid().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    message = pb.ModelInferRequest()
    try:
        message.MergeFromString(bytes(raw))
    except DecodeError:
        return  # no message at all: gRPC itself answers that
    try:
        request = decode_request(message)
    except CodecError as error:
        str(error).encode()
    else:
        assert request.inputs
