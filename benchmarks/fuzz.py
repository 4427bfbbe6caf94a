"""What comes out of the decoders for bytes that no client should send?

Each target runs in a process of its own under atheris, which keeps the inputs that reach new code
and mutates them further. It begins with valid inputs, and half of its mutations change one value of
the JSON, so that they come past the parser. Only RequestError may come out; one that takes long
or much memory ends the run too. To add a decoder, add a line to `TARGETS`.
"""

from __future__ import annotations

import inspect
import json
import random
import re
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from benchmarks.report import Report
from missile_jax.errors import RequestError
from missile_jax.server import codec, encoding, tensors
from missile_jax.server.codec import InferRequest, decode_request, decode_response, encode_request
from missile_jax.server.encoding import ENCODINGS, inflate
from missile_jax.server.grpc import messages
from missile_jax.server.tensors import DTYPES, check_shape, from_bytes, from_json

MAX_BYTES = 2**16
# libFuzzer's limits for one input, and for the process from beginning to end.
SECONDS_EACH = 5
RSS_MB = 1024
_LENGTH = struct.Struct("<I")
_STRANGE = (
    None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**30, -0.5, 1e308, float("nan"), "", "x",
    "\ud800", "BYTES", "FP32", "UINT64", [], [[]], [[1], 2], {}, {"binary_data_size": 4},
)  # fmt: skip


def decode_request_target(data: bytes) -> None:
    """Four bytes say where the JSON ends; past the end stands for no header."""
    length, body = _LENGTH.unpack_from(data.ljust(4))[0], data[4:]
    request = decode_request(body, length if length <= len(body) else None)
    if sum(array.nbytes for array in request.inputs.values()) > 64 * len(body) + 64:
        raise MemoryError("the tensors are larger than the body can hold")


def decode_response_target(data: bytes) -> None:
    """As of requests."""
    length, body = _LENGTH.unpack_from(data.ljust(4))[0], data[4:]
    decode_response(body, length if length <= len(body) else None)


def grpc_request_target(data: bytes) -> None:
    """A ModelInferRequest; what is none is protobuf's to refuse."""
    with suppress(DecodeError):
        messages.decode_request(pb.ModelInferRequest.FromString(data))


def grpc_response_target(data: bytes) -> None:
    """A ModelInferResponse."""
    with suppress(DecodeError):
        messages.decode_response(pb.ModelInferResponse.FromString(data))


def from_json_target(data: bytes) -> None:
    """A JSON list of datatype, shape and values."""
    try:
        datatype, shape, values = json.loads(data)
    except (TypeError, ValueError, RecursionError):
        return
    from_json("it", datatype, check_shape("it", shape), values)


def from_bytes_target(data: bytes) -> None:
    """A byte for the datatype, one for the rank, a byte for each size, then the tensor."""
    if len(data) < 2:
        return
    datatype, rank = list(DTYPES)[data[0] % len(DTYPES)], data[1] % 5
    from_bytes("it", datatype, tuple(data[2 : 2 + rank]), data, min(2 + rank, len(data)), len(data))


def inflate_target(data: bytes) -> None:
    """A byte for the encoding, then the body."""
    plain = inflate(data[1:], ENCODINGS[data[:1] > b"\x7f"], MAX_BYTES)
    if len(plain) > MAX_BYTES:
        raise MemoryError("more came out than the limit")


def _requests() -> Iterator[bytes]:
    arrays = {
        "input": np.arange(6, dtype=np.float32).reshape(2, 3),
        "ids": np.arange(4, dtype=np.uint64)[None],
        "text": np.array([[b"a", b"bc"]], object),
    }
    outputs = {"output": True, "half": False}
    for binary in (True, False):
        request = InferRequest(arrays, "id", outputs, timeout_us=1000)
        body, length = encode_request(request, binary=binary)
        yield _LENGTH.pack(0xFFFFFFFF if length is None else length) + body


def _responses() -> Iterator[bytes]:
    for request in _requests():
        head, rest = request[:4], request[4:].replace(b'"inputs"', b'"outputs"', 1)
        (length,) = _LENGTH.unpack(head)
        yield _LENGTH.pack(length + (length < 0xFFFFFFFF)) + rest


def _grpc_requests() -> Iterator[bytes]:
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


def _grpc_responses() -> Iterator[bytes]:
    response = pb.ModelInferResponse(model_name="m", model_version="1", id="id")
    response.outputs.add(name="output", datatype="FP32", shape=[1, 1])
    response.raw_output_contents.append(bytes(4))
    yield response.SerializeToString()


def _json_tensors() -> Iterator[bytes]:
    for datatype in DTYPES:
        value = "a" if datatype == "BYTES" else datatype == "BOOL" or 1
        yield json.dumps([datatype, [2, 1], [[value], [value]]]).encode()


def _byte_tensors() -> Iterator[bytes]:
    yield bytes([11, 1, 2]) + bytes(8)
    yield bytes([13, 1, 2]) + _LENGTH.pack(1) + b"a" + _LENGTH.pack(0)


def _compressed() -> Iterator[bytes]:
    for first, bits in ((b"\x00", 31), (b"\xff", 15)):
        for plain in (b"abc", bytes(10 * MAX_BYTES)):
            stream = zlib.compressobj(9, wbits=bits)
            yield first + stream.compress(plain) + stream.flush()


# name: what is run, and the valid inputs that it begins with.
TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], Iterator[bytes]]]] = {
    "request": (decode_request_target, _requests),
    "response": (decode_response_target, _responses),
    "grpc-request": (grpc_request_target, _grpc_requests),
    "grpc-response": (grpc_response_target, _grpc_responses),
    "json-tensor": (from_json_target, _json_tensors),
    "byte-tensor": (from_bytes_target, _byte_tensors),
    "compressed": (inflate_target, _compressed),
}


def run(inputs: int, seed: int, only: str | None = None) -> Report:
    """`inputs` for each target, or for that named `only`.

    Raises ValueError for a target that is not there, RuntimeError where atheris is not installed.
    """
    if only is not None and only not in TARGETS:
        raise ValueError(f"no target {only!r}; allowed: {', '.join(TARGETS)}")
    report = Report("fuzz", seed)
    for name in TARGETS if only is None else [only]:
        report.rows.append({"what": name, **_target(name, inputs, seed)})
    report.summary = {
        "inputs": sum(row["n"] for row in report.rows),
        "failed": sum(row["failed"] for row in report.rows),
        "rss_growth_mb": max(row["rss_growth_mb"] for row in report.rows),
    }
    return report


def _target(name: str, inputs: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for k, data in enumerate(TARGETS[name][1]()):
            (corpus / str(k)).write_bytes(data)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.fuzz", name, f"-runs={inputs}",
             f"-seed={seed + 1}", f"-max_len={MAX_BYTES}", f"-timeout={SECONDS_EACH}",
             f"-rss_limit_mb={RSS_MB}", f"-artifact_prefix={folder}/", str(corpus)],
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        said = done.stderr
        found = re.findall(r"#(\d+)\s+\w+ +cov: (\d+).* rss: (\d+)Mb", said)
        if not found:
            raise RuntimeError(f"target {name} did not run:\n{said[-2000:]}")
        culprits = [path.read_bytes()[:500].hex() for path in Path(folder).glob("*-*")]
    rss = [int(mb) for _, _, mb in found]
    return {
        "n": int(found[-1][0]),
        "coverage": int(found[-1][1]),
        "failed": int(done.returncode != 0),
        "rss_growth_mb": rss[-1] - rss[len(rss) // 2],
        "rss_mb": rss[-1],
        "why": said[-2000:] if done.returncode else "",
        "culprits": culprits,
    }


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
    if len(head) == 4 and _LENGTH.unpack(head)[0] == end:
        head = _LENGTH.pack(len(text))
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


def main() -> None:
    import atheris

    target = TARGETS[sys.argv.pop(1)][0]
    for module in (codec, encoding, messages, tensors):
        for function in vars(module).values():
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                atheris.instrument_func(function)  # type: ignore[attr-defined]

    def run_one(data: bytes) -> None:
        with suppress(RequestError):
            target(data)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return mutated(data, rng)[:max_size]
        return atheris.Mutate(data, max_size)

    atheris.Setup(sys.argv, run_one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
