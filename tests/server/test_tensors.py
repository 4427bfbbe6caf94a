"""One tensor to the wire and back, and every way a client can get it wrong."""

import math

import ml_dtypes
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from missile_jax.server.codec import decode_response
from missile_jax.server.tensors import (
    DTYPES,
    CodecError,
    check_shape,
    datatype_of,
    from_bytes,
    from_json,
    to_bytes,
    to_json,
)

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Any array that the protocol can carry, BYTES as an object array of bytes."""
    datatype = draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(SHAPES)
    if datatype == "BYTES":
        count = math.prod(shape)
        items = draw(st.lists(st.binary(max_size=20), min_size=count, max_size=count))
        array = np.empty(count, object)
        array[:] = items
        return array.reshape(shape)
    raw = draw(hnp.arrays(np.uint8, (*shape, DTYPES[datatype].itemsize)))
    if datatype == "BOOL":
        raw &= 1
    return np.frombuffer(raw.tobytes(), DTYPES[datatype]).reshape(shape)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal in shape, dtype and bytes."""
    return (a.dtype, a.shape, bytes(to_bytes(a))) == (b.dtype, b.shape, bytes(to_bytes(b)))


@given(arrays(), st.binary(max_size=9), st.binary(max_size=9))
def test_bytes_round_trip(array, before, after):
    raw = bytes(to_bytes(array))
    body = before + raw + after
    start, stop = len(before), len(before) + len(raw)
    back = from_bytes("x", datatype_of(array.dtype), array.shape, body, start, stop)
    assert same(array, back)


def through_json(array: np.ndarray) -> np.ndarray:
    """`array` as the one output of a JSON response, decoded: parsed as leniently as a request."""
    document = {
        "outputs": [
            {
                "name": "x",
                "datatype": datatype_of(array.dtype),
                "shape": array.shape,
                "data": to_json("x", array),
            }
        ]
    }
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return decode_response(text).outputs["x"]


@given(arrays().filter(lambda array: array.dtype != object))
def test_json_round_trip(array):
    back = through_json(array)
    assert (back.shape, back.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(back, array)


@given(st.lists(st.text(max_size=9), max_size=6))
def test_json_round_trip_of_text(texts):
    array = np.empty(len(texts), object)
    array[:] = [text.encode() for text in texts]
    assert same(through_json(array), array)


def test_json_values_may_be_nested_or_flat():
    nested = from_json("x", "INT16", (2, 1, 2), [[[1, 2]], [[3, 4]]])
    flat = from_json("x", "INT16", (2, 1, 2), [1, 2, 3, 4])
    assert same(nested, flat)


def test_binary_tensors_are_views_of_the_body():
    body = bytes(range(32))
    array = from_bytes("x", "FP32", (2, 3), body, 5, 29)
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert not array.flags.writeable


def test_large_contiguous_arrays_are_sent_without_a_copy():
    array = np.zeros(4096, ml_dtypes.bfloat16)
    assert np.shares_memory(np.frombuffer(to_bytes(array), np.uint8), array.view(np.uint8))


def test_an_array_of_another_layout_is_sent_row_major():
    array = np.arange(6, dtype=np.int16).reshape(2, 3).T
    assert bytes(to_bytes(array)) == np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", (2,), [1.0]),  # too few
        ("FP32", (2,), [1.0, 2.0, 3.0]),  # too many
        ("FP32", (2, 2), [[1.0, 2.0], [3.0]]),  # ragged
        ("FP32", (2, 2), [[1.0], [2.0], [3.0], [4.0]]),  # nested as another shape
        ("FP32", (1,), ["1.0"]),
        ("FP32", (1,), [None]),
        ("FP32", (1,), [{}]),
        ("FP32", (1,), 1.0),
        ("FP32", (1,), None),
        ("FP32", (1,), [1e39]),
        ("FP16", (1,), [70000]),
        ("BF16", (1,), [1e39]),
        ("INT8", (1,), [128]),
        ("UINT8", (1,), [-1]),
        ("INT32", (1,), [1.5]),
        ("INT32", (1,), [True]),
        ("UINT64", (2,), [2**63, -1]),
        ("UINT64", (2,), [2**63, 1.5]),
        ("BOOL", (1,), [1]),
        ("BYTES", (1,), [1]),
        ("FP31", (1,), [1.0]),
        (None, (1,), [1.0]),
        ([], (1,), [1.0]),
    ],
)
def test_json_values_that_do_not_fit_are_refused(datatype, shape, data):
    with pytest.raises(CodecError, match=r"^here: "):
        from_json("here", datatype, shape, data)


def test_json_values_as_deep_as_the_parser_allows_are_refused():
    data = 1.0
    for _ in range(900):
        data = [data]
    with pytest.raises(CodecError, match="nested too deep"):
        from_json("here", "FP32", (1,), data)


def test_large_unsigned_values_stay_exact():
    array = from_json("x", "UINT64", (2,), [2**64 - 1, 1])
    assert array.tolist() == [2**64 - 1, 1]


@pytest.mark.parametrize(
    "shape", [None, 3, "3", {}, [1.0], [-1], [True], [None], ["1"], [1] * 33, [[1]]]
)
def test_shapes_are_lists_of_sizes(shape):
    with pytest.raises(CodecError, match="shape"):
        check_shape("here", shape)


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_an_empty_tensor_of_an_absurd_shape_is_refused(datatype):
    with pytest.raises(CodecError, match="too large"):
        from_bytes("here", datatype, (0, 10**30), b"", 0, 0)


@pytest.mark.parametrize(
    ("shape", "raw"),
    [
        ((1,), b""),
        ((1,), b"\1\0\0"),  # half a length
        ((1,), b"\2\0\0\0a"),  # less than the length says
        ((1,), b"\xff\xff\xff\xffa"),
        ((1,), b"\1\0\0\0ab"),  # more
        ((2,), b"\1\0\0\0a"),
        ((0,), b"\0\0\0\0"),
        ((10**15,), b"\0\0\0\0"),
    ],
)
def test_bytes_elements_must_fill_the_tensor(shape, raw):
    with pytest.raises(CodecError, match="BYTES"):
        from_bytes("here", "BYTES", shape, raw, 0, len(raw))


def test_bytes_that_are_no_text_have_no_json():
    array = np.array([b"\xff"], object)
    with pytest.raises(CodecError, match="binary_data"):
        to_json("here", array)


def test_a_dtype_outside_the_protocol_is_named():
    with pytest.raises(CodecError, match="float8_e4m3fn"):
        datatype_of(np.dtype(ml_dtypes.float8_e4m3fn))
