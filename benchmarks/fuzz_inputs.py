"""What the targets of `fuzz` begin with, and mutations that come past what is checked first."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from missile_jax.server.codec import InferRequest, encode_request
from missile_jax.server.grpc import messages
from missile_jax.server.tensors import DTYPES

MAX_BYTES = 2**16
LENGTH = struct.Struct("<I")
_STRANGE = (
    None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**30, -0.5, 1e308, float("nan"), "", "x",
    "\ud800", "BYTES", "FP32", "UINT64", [], [[]], [[1], 2], {}, {"binary_data_size": 4},
)  # fmt: skip
# By the bit of the first byte that chooses the encoding: gzip, deflate.
_WINDOW_BITS = (31, 15)


def requests() -> Iterator[bytes]:
    arrays = {
        "input": np.arange(6, dtype=np.float32).reshape(2, 3),
        "ids": np.arange(4, dtype=np.uint64)[None],
        "text": np.array([[b"a", b"bc"]], object),
    }
    outputs = {"output": True, "half": False}
    for binary in (True, False):
        request = InferRequest(arrays, "id", outputs, timeout_us=1000)
        body, length = encode_request(request, binary=binary)
        yield LENGTH.pack(0xFFFFFFFF if length is None else length) + body


def responses() -> Iterator[bytes]:
    for request in requests():
        head, rest = request[:4], request[4:].replace(b'"inputs"', b'"outputs"', 1)
        (length,) = LENGTH.unpack(head)
        yield LENGTH.pack(length + (length < 0xFFFFFFFF)) + rest


def grpc_requests() -> Iterator[bytes]:
    arrays = {
        "input": np.arange(6, dtype=np.float32).reshape(2, 3),
        "text": np.array([[b"a", b"bc"]], object),
    }
    request = InferRequest(arrays, "id", {"output": True}, timeout_us=1000, priority=2)
    yield messages.encode_request(request, "m").SerializeToString()
    typed = pb.ModelInferRequest(model_name="m")
    tensor = typed.inputs.add(name="input", datatype="INT32", shape=[1, 2])
    tensor.contents.int_contents.extend([1, 2])
    yield typed.SerializeToString()


def grpc_responses() -> Iterator[bytes]:
    response = pb.ModelInferResponse(model_name="m", model_version="1", id="id")
    response.outputs.add(name="output", datatype="FP32", shape=[1, 1])
    response.raw_output_contents.append(bytes(4))
    yield response.SerializeToString()


def json_tensors() -> Iterator[bytes]:
    for datatype in DTYPES:
        value = "a" if datatype == "BYTES" else datatype == "BOOL" or 1
        yield json.dumps([datatype, [2, 1], [[value], [value]]]).encode()


def byte_tensors() -> Iterator[bytes]:
    """Of each datatype and rank, one that fits; then such that do not."""
    rng = random.Random(0)
    for datatype in DTYPES:
        for rank in range(5):
            yield _byte_tensor(rng, datatype, [rng.randrange(3) for _ in range(rank)])
    for datatype in ("FP32", "BYTES"):
        whole = _byte_tensor(rng, datatype, [2, 3])
        yield whole[:-1]
        yield whole + b"x"


def _byte_tensor(rng: random.Random, datatype: str, shape: list[int]) -> bytes:
    """As the target "byte-tensor" reads it, with the right number of bytes."""
    count = int(np.prod(shape, dtype=int))
    if datatype == "BYTES":
        words = [rng.randbytes(rng.randrange(5)) for _ in range(count)]
        data = b"".join(LENGTH.pack(len(word)) + word for word in words)
    else:
        data = rng.randbytes(count * DTYPES[datatype].itemsize)
    return bytes([list(DTYPES).index(datatype), len(shape), *shape]) + data


def compressed() -> Iterator[bytes]:
    """Bodies of each encoding that are whole; then those that are damaged, or too long."""
    noise = random.Random(0).randbytes(40_000)
    plains = (b"", b"abc", noise, bytes(MAX_BYTES))
    for first in (b"\x00", b"\xff"):
        for level, plain in enumerate(plains):
            yield first + _compress(first, plain, 3 * level)
        flushing = zlib.compressobj(wbits=_window_bits(first))
        parts = [flushing.compress(b"one"), flushing.flush(zlib.Z_FULL_FLUSH)]
        yield first + b"".join([*parts, flushing.compress(b"two"), flushing.flush()])
    # A name, a comment, further fields and a check of the header.
    header = b"\x1f\x8b\x08\x1e" + bytes(6) + b"\x02\x00ab" + b"name\x00" + b"comment\x00"
    check = (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
    yield b"\x00" + header + check + _compress(b"\x00", b"abc", 6)[10:]
    for first in (b"\x00", b"\xff"):
        whole = _compress(first, b"abc", 6)
        yield first + whole[:-1]
        yield first + whole + whole
        yield first + whole[:-2] + b"xx"
        yield first + _compress(first, bytes(MAX_BYTES + 1), 9)
        yield first + _compress(first, bytes(10 * MAX_BYTES), 9)
        yield bytes([first[0] ^ 0xFF]) + whole
    yield b"\xff" + zlib.compressobj(wbits=-15).flush()
    known = zlib.compressobj(wbits=15, zdict=b"abc")
    yield b"\xff" + known.compress(b"abcabc") + known.flush()


def _window_bits(first: bytes) -> int:
    return _WINDOW_BITS[first > b"\x7f"]


def _compress(first: bytes, plain: bytes, level: int) -> bytes:
    stream = zlib.compressobj(level, wbits=_window_bits(first))
    return stream.compress(plain) + stream.flush()


def same(data: bytes, _: random.Random) -> bytes:
    """`data`: nothing is known of it."""
    return data


def resized(data: bytes, rng: random.Random) -> bytes:
    """A byte tensor that fits its shape, of the datatype of `data` or of another, or nearly one."""
    datatype = list(DTYPES)[
        (data[0] if data and rng.random() < 0.5 else rng.randrange(256)) % len(DTYPES)
    ]
    made = _byte_tensor(rng, datatype, [rng.randrange(4) for _ in range(rng.randrange(5))])
    if rng.random() < 0.5:
        return made
    at = rng.randrange(len(made))
    return made[:at] + rng.randbytes(rng.randrange(3)) + made[at + 1 :]


def recompressed(data: bytes, rng: random.Random) -> bytes:
    """What `data` holds, cut or grown and compressed anew, perhaps with one byte that is wrong."""
    first = data[:1] or b"\x00"
    try:
        plain = zlib.decompressobj(_window_bits(first)).decompress(data[1:], 2 * MAX_BYTES)
    except zlib.error:
        return data
    plain = plain[: rng.randrange(len(plain) + 1)] + rng.randbytes(rng.randrange(2**12))
    made = first + _compress(first, plain, rng.randrange(10))
    if rng.random() < 0.5:
        return made
    at = rng.randrange(1, len(made))
    return made[:at] + rng.randbytes(rng.randrange(3)) + made[at + 1 :]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` with one value of its JSON part put in place of another, if it has such a part."""
    start = data.find(b"{") if b"{" in data[:5] else data.find(b"[")
    try:
        document, end = json.JSONDecoder().raw_decode(data[start:].decode("latin-1"))
    except (ValueError, RecursionError):
        return data
    places = list(_places(document))
    if not places:
        return data
    owner, key = rng.choice(places)
    _, other = rng.choice([(None, rng.choice(_STRANGE)), (0, _get(rng.choice(places)))])
    owner[key] = json.loads(json.dumps(other))
    text = json.dumps(document).encode()
    head = data[:start]
    if len(head) == 4 and LENGTH.unpack(head)[0] == end:
        head = LENGTH.pack(len(text))
    return head + text + data[start + end :]


def _get(place: tuple[Any, Any]) -> Any:
    return place[0][place[1]]


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """(owner, key) of every value below `document`."""
    if isinstance(document, dict):
        keys = list(document)
    elif isinstance(document, list):
        keys = list(range(len(document)))
    else:
        return
    for key in keys:
        yield document, key
        yield from _places(document[key])
