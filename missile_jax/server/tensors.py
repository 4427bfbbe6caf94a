"""One tensor of the Open Inference Protocol, to and from numpy: as raw bytes and as JSON values.

Raw bytes are little endian and row major. An element of BYTES is a 4-byte length and that many
bytes; its array has dtype object and holds `bytes`. No length that a client sent is trusted: each
is checked against the bytes that are there before an array is made.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import orjson

from missile_jax.errors import RequestError

MAX_RANK = 32

DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}
_DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}
_BF16 = DTYPES["BF16"]
_LENGTH = struct.Struct("<I")
# To copy less takes no longer than to make a view.
_SMALL_BYTES = 4096


class CodecError(RequestError, ValueError):
    """A request or response is not well-formed Open Inference Protocol."""


def datatype_of(dtype: np.dtype | str) -> str:
    """The protocol's name of a numpy dtype: ``"FP32"`` for float32.

    Raises CodecError for a dtype that the protocol has no name for, such as float8_e4m3fn.
    """
    try:
        return _DATATYPES[np.dtype(dtype)]
    except KeyError:
        allowed = ", ".join(d.name for d in _DATATYPES)
        raise CodecError(
            f"dtype {dtype} has no datatype in the protocol; allowed: {allowed}"
        ) from None


def check_shape(where: str, shape: Any) -> tuple[int, ...]:
    """`shape` as a tuple. Raises CodecError unless it is a list of whole numbers of 0 or more."""
    if type(shape) is not list or len(shape) > MAX_RANK:
        raise CodecError(f"{where}: shape must be a list of at most {MAX_RANK} sizes")
    for size in shape:
        if type(size) is not int or size < 0:
            raise CodecError(f"{where}: shape {_brief(shape)} must hold whole numbers of 0 or more")
    return tuple(shape)


def from_bytes(
    where: str, datatype: str, shape: tuple[int, ...], body: bytes, start: int, stop: int
) -> np.ndarray:
    """The tensor in ``body[start:stop]``: a read-only view of `body`, or a copy where it is BYTES.

    Raises CodecError unless the slice holds exactly `shape` elements.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return from_elements(where, _split_elements(where, body, start, stop, count), shape)
    dtype = _dtype(where, datatype)
    if stop - start != count * dtype.itemsize:
        raise CodecError(
            f"{where}: {stop - start} bytes do not hold {datatype} of shape {_brief(list(shape))}, "
            f"which takes {count * dtype.itemsize}"
        )
    return _reshape(where, np.frombuffer(body, dtype, count, start), shape)


def from_elements(where: str, items: Sequence[bytes], shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of BYTES with these elements. Raises CodecError for a wrong count."""
    if len(items) != math.prod(shape):
        raise CodecError(
            f"{where}: {len(items)} elements of BYTES, shape {_brief(list(shape))} has "
            f"{math.prod(shape)}"
        )
    array = np.empty(len(items), object)
    array[:] = items
    return _reshape(where, array, shape)


def to_bytes(array: np.ndarray) -> bytes | memoryview:
    """The raw bytes of `array`, flat; of a large one without a copy where it is in wire order."""
    if array.dtype.hasobject:
        return b"".join(part for item in array.flat for part in (_LENGTH.pack(len(item)), item))
    if array.nbytes < _SMALL_BYTES:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def from_json(where: str, datatype: str, shape: tuple[int, ...], data: Any) -> np.ndarray:
    """The tensor whose values are `data`: a flat list, or lists nested as `shape`.

    Raises CodecError for ragged lists, a wrong count, and values of another type or out of range.
    """
    dtype = _dtype(where, datatype)
    if type(data) is not list:
        raise CodecError(f"{where}: data must be a list")
    try:
        raw = np.array(data, dtype=object if datatype == "BYTES" else None)
    except (ValueError, OverflowError):
        raise CodecError(f"{where}: data is ragged or nested too deep") from None
    if raw.shape != shape and not (raw.ndim == 1 and raw.size == math.prod(shape)):
        raise CodecError(
            f"{where}: data has shape {list(raw.shape)}, expected a flat list "
            f"or {_brief(list(shape))}"
        )
    return _reshape(where, _cast(where, datatype, dtype, data, raw), shape)


def to_json(where: str, array: np.ndarray) -> Any:
    """The values of `array` as a flat value for orjson with OPT_SERIALIZE_NUMPY.

    NaN and infinities become the bare words that clients of this protocol send and read, since null
    would turn an infinity into NaN. Raises CodecError for BYTES that are not UTF-8.
    """
    if array.dtype.hasobject:
        try:
            return [item.decode() for item in array.flat]
        except UnicodeDecodeError:
            raise CodecError(f"{where}: bytes are not UTF-8; ask for binary_data") from None
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype == _BF16:
        flat = flat.astype(np.float32)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        return orjson.Fragment(json.dumps(flat.tolist()))
    return flat


def _dtype(where: str, datatype: Any) -> np.dtype:
    if isinstance(datatype, str) and datatype in DTYPES:
        return DTYPES[datatype]
    raise CodecError(
        f"{where}: datatype {_brief(datatype)} is unknown; allowed: {', '.join(DTYPES)}"
    )


def _split_elements(where: str, body: bytes, start: int, stop: int, count: int) -> list[bytes]:
    items: list[bytes] = []
    at = start
    while at < stop and len(items) < count:
        end = at + 4
        if end <= stop:
            end += _LENGTH.unpack_from(body, at)[0]
        if end > stop:
            raise CodecError(f"{where}: element {len(items)} of BYTES runs past the tensor's end")
        items.append(body[at + 4 : end])
        at = end
    if at != stop or len(items) != count:
        raise CodecError(f"{where}: BYTES data does not hold exactly {count} elements")
    return items


def _cast(where: str, datatype: str, dtype: np.dtype, data: list, raw: np.ndarray) -> np.ndarray:
    if raw.size == 0:
        return raw.astype(dtype)
    if datatype == "BYTES":
        return _encode_strings(where, raw)
    if datatype == "UINT64" and raw.dtype.kind == "f":
        # numpy makes floats of a list that has values on both sides of 2**63.
        raw = np.array(data, dtype=object)
        if all(type(value) is int for value in raw.flat):
            kind = "u"
        else:
            kind = "f"
    else:
        kind = raw.dtype.kind
    if kind not in {"b": "b", "u": "iu", "i": "iu"}.get(dtype.kind, "fiu"):
        raise CodecError(f"{where}: data must hold values of {datatype} only")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if raw.min() < limits.min or raw.max() > limits.max:
            raise CodecError(f"{where}: data holds values outside {limits.min} to {limits.max}")
        return raw.astype(dtype)
    try:
        with np.errstate(over="raise"):
            return raw.astype(dtype)
    except FloatingPointError:
        raise CodecError(f"{where}: data holds values too large for {datatype}") from None


def _encode_strings(where: str, raw: np.ndarray) -> np.ndarray:
    array = np.empty(raw.shape, object)
    for index, item in np.ndenumerate(raw):
        if type(item) is not str:
            raise CodecError(f"{where}: data of BYTES must hold strings")
        array[index] = item.encode("utf-8", "surrogatepass")
    return array


def _reshape(where: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return array.reshape(shape)
    except ValueError:  # an empty tensor may name sizes beyond what numpy counts
        raise CodecError(f"{where}: shape {_brief(list(shape))} is too large") from None


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
