"""Requests and responses, there and back; malformed bodies end in CodecError and nothing else."""

import json
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_tensors import arrays, same

from missile_jax.server.codec import (
    InferRequest,
    InferResponse,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from missile_jax.server.tensors import CodecError

NAMES = st.text(max_size=8)
TENSORS = st.dictionaries(NAMES, arrays(), min_size=1, max_size=4)
REQUESTS = st.builds(
    InferRequest,
    inputs=TENSORS,
    id=st.text(max_size=8),
    outputs=st.none() | st.dictionaries(NAMES, st.booleans(), min_size=1, max_size=4),
    binary=st.booleans(),
    timeout_us=st.none() | st.integers(1, 2**40),
    priority=st.none() | st.integers(1, 9) | st.text(min_size=1, max_size=4),
    slices=st.just({}),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


def tensors_same(a, b):
    return list(a) == list(b) and all(same(a[name], b[name]) for name in a)


@given(REQUESTS)
def test_request_round_trip(request_):
    back = decode_request(*encode_request(request_))
    assert tensors_same(back.inputs, request_.inputs)
    for field in ("id", "outputs", "binary", "timeout_us", "priority", "slices"):
        assert getattr(back, field) == getattr(request_, field)


@given(TENSORS, REQUESTS)
def test_response_round_trip(outputs, request_):
    request_ = InferRequest(request_.inputs, outputs=dict.fromkeys(outputs, True))
    response = InferResponse("net", outputs, id="7")
    back = decode_response(*encode_response(response, request_))
    assert tensors_same(back.outputs, outputs)
    assert (back.model_name, back.model_version, back.id) == ("net", "1", "7")


def test_each_output_is_sent_as_it_was_asked_for():
    response = InferResponse("net", {"a": np.zeros(2, np.int8), "b": np.ones(2, np.int8)})
    request = InferRequest({}, outputs={"a": False, "b": True})
    body, length = encode_response(response, request)
    a, b = json.loads(body[:length])["outputs"]
    assert a["data"] == [0, 0]
    assert b["parameters"] == {"binary_data_size": 2}
    assert body[length:] == b"\1\1"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_json_lacks_are_read_and_written_as_bare_words(value):
    body = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [value]}]}
    ).encode()
    (got,) = decode_request(body).inputs["x"]
    assert np.array_equal(got, value, equal_nan=True)
    body, length = encode_response(
        InferResponse("net", {"y": np.float32([value])}), InferRequest({})
    )
    assert length is None
    assert json.loads(body)["outputs"][0]["data"] == pytest.approx([value], nan_ok=True)


def valid() -> dict:
    return {
        "id": "7",
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [1, 1],
                "parameters": {"binary_data_size": 4},
            },
            {"name": "k", "datatype": "INT64", "shape": [1], "data": [3]},
        ],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        "parameters": {"timeout": 5, "priority": 1, "anything": [1]},
    }


def body_of(document) -> tuple[bytes, int]:
    text = json.dumps(document).encode()
    return text + b"\0\0\x80\x3f", len(text)


def test_what_is_not_known_is_ignored():
    document = valid()
    document["model_name"] = "net"
    document["inputs"][0]["content_type"] = "np"
    request = decode_request(*body_of(document))
    assert request.inputs["x"].tolist() == [[1.0]]
    assert request.inputs["k"].tolist() == [3]
    assert request.outputs == {"y": True}
    assert request.timeout_us == 5


def put(*path_and_value):
    *path, key, value = path_and_value

    def change(document):
        for part in path:
            document = document[part]
        document[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("id", 7), "id must be a string"),
        (put("inputs", []), "follow"),
        (put("inputs", {}), "must be a list"),
        (put("inputs", [{}] * 1025), "at most"),
        (put("inputs", 0, 7), "must be an object with a name"),
        (put("inputs", 0, "name", None), "must be an object with a name"),
        (put("inputs", 1, "name", "x"), "named twice"),
        (put("inputs", 0, "data", [1.0]), "give one of data"),
        (put("inputs", 0, "shape", [2]), "do not hold FP32"),
        (put("inputs", 0, "datatype", "FP64"), "do not hold FP64"),
        (put("inputs", 0, "datatype", "fp32"), "unknown"),
        (put("inputs", 0, "parameters", []), "must be an object"),
        (put("inputs", 0, "parameters", "binary_data_size", 5), "outside 0 to 4"),
        (put("inputs", 0, "parameters", "binary_data_size", -1), "outside 0 to 4"),
        (put("inputs", 0, "parameters", "binary_data_size", True), "outside 0 to 4"),
        (put("inputs", 0, "parameters", "shared_memory_region", 7), "must be a string"),
        (put("inputs", 0, "parameters", {"shared_memory_region": "r"}), "byte_size must be"),
        (put("inputs", 0, {"name": "x", "datatype": "BOOL", "shape": [0], "data": []}), "follow"),
        (put("outputs", 0, "parameters", {"classification": 3}), "not supported"),
        (put("outputs", 0, "parameters", {"binary_data": "yes"}), "true or false"),
        (put("outputs", "y"), "must be a list"),
        (put("outputs", [{"name": "y"}, {"name": "y"}]), "named twice"),
        (put("parameters", "timeout", -1), "microseconds"),
        (put("parameters", "timeout", 2**63), "microseconds"),
        (put("parameters", "timeout", 1.5), "microseconds"),
        (put("parameters", "priority", -1), "priority must be a whole number"),
        (put("parameters", "priority", True), "priority must be a whole number"),
        (put("parameters", "binary_data_output", 1), "true or false"),
    ],
)
def test_a_malformed_request_is_told_what_is_wrong(change, message):
    document = valid()
    change(document)
    with pytest.raises(CodecError, match=message):
        decode_request(*body_of(document))


def test_a_request_without_inputs_is_refused():
    with pytest.raises(CodecError, match="at least one tensor"):
        decode_request(b'{"inputs": []}')


@pytest.mark.parametrize("length", [-1, 10**9])
def test_a_header_length_beyond_the_body_is_refused(length):
    with pytest.raises(CodecError, match="Inference-Header-Content-Length"):
        decode_request(body_of(valid())[0], length)


@pytest.mark.parametrize("length", [0, 1, 50, None])
def test_a_header_length_within_the_json_is_refused(length):
    with pytest.raises(CodecError, match="not JSON"):
        decode_request(body_of(valid())[0], length)


@given(st.binary(max_size=200), st.none() | st.integers(-5, 250))
@example(b'{"inputs":[{"name":"\\ud800","x":NaN}]}', None)
@example(b'{"id":"\\ud800","x":NaN,"inputs":[]}', None)
@example(b"[" * 100_000 + b"NaN", None)
@example(b'{"x":NaN,"y":' + b"9" * 5000 + b"}", None)
def test_any_bytes_decode_or_raise_codec_error(body, length):
    with pytest.raises(CodecError):
        decode_request(body, length)


@given(st.data())
def test_any_change_of_a_request_decodes_or_raises_codec_error(data):
    document = valid()
    target = data.draw(
        st.sampled_from(
            [document, document["inputs"][0], document["inputs"][1], document["parameters"]]
        )
    )
    key = data.draw(st.sampled_from([*target, "parameters", "data", "outputs"]))
    target[key] = data.draw(JSON)
    body, length = body_of(document)
    cut = data.draw(st.integers(0, len(body)))
    for changed in (body, body[:cut], body + body[cut:]):
        try:
            request = decode_request(changed, length)
        except CodecError as error:
            str(error).encode()
        else:
            assert request.inputs
