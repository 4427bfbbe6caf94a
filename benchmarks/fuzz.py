"""What comes out of the decoders for bytes that no client should send?

Each target runs in a process of its own under atheris, which keeps the inputs that reach new code
and mutates them further. It begins with the inputs of `fuzz_inputs`, and half of its mutations are
made there too, so that they come past what is checked first. Only RequestError may come out; one
that takes long or much memory ends the run too. To add a decoder, add a line to `TARGETS`.
"""

from __future__ import annotations

import inspect
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from benchmarks import fuzz_inputs as inputs
from benchmarks.fuzz_inputs import LENGTH, MAX_BYTES
from benchmarks.report import Report
from missile_jax.errors import RequestError
from missile_jax.server import codec, encoding, tensors
from missile_jax.server.codec import decode_request, decode_response
from missile_jax.server.encoding import ENCODINGS, inflate
from missile_jax.server.grpc import messages
from missile_jax.server.tensors import DTYPES, check_shape, from_bytes, from_json

# libFuzzer's limits for one input, and for the process from beginning to end.
SECONDS_EACH = 5
# A process begins with the peak memory of the one that started it, which libFuzzer takes for its
# own: a small one between them starts it.
_FORKED = (
    sys.executable,
    "-c",
    "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))",
)
RSS_MB = 1024
# More than so much between the middle of a run and its end is growth, and fails.
GROWTH_MB = 32


def decode_request_target(data: bytes) -> None:
    """Four bytes say where the JSON ends; past the end stands for no header."""
    length, body = LENGTH.unpack_from(data.ljust(4))[0], data[4:]
    request = decode_request(body, length if length <= len(body) else None)
    if sum(array.nbytes for array in request.inputs.values()) > 64 * len(body) + 64:
        raise MemoryError("the tensors are larger than the body can hold")


def decode_response_target(data: bytes) -> None:
    """As of requests."""
    length, body = LENGTH.unpack_from(data.ljust(4))[0], data[4:]
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


class Target(NamedTuple):
    """What is run, the inputs that it begins with, and how half of the mutations are made."""

    run: Callable[[bytes], None]
    first: Callable[[], Iterator[bytes]]
    mutate: Callable[[bytes, random.Random], bytes]


TARGETS = {
    "request": Target(decode_request_target, inputs.requests, inputs.mutated),
    "response": Target(decode_response_target, inputs.responses, inputs.mutated),
    "grpc-request": Target(grpc_request_target, inputs.grpc_requests, inputs.same),
    "grpc-response": Target(grpc_response_target, inputs.grpc_responses, inputs.same),
    "json-tensor": Target(from_json_target, inputs.json_tensors, inputs.mutated),
    "byte-tensor": Target(from_bytes_target, inputs.byte_tensors, inputs.resized),
    "compressed": Target(inflate_target, inputs.compressed, inputs.recompressed),
}


def run(count: int, seed: int, only: str | None = None) -> Report:
    """`count` inputs for each target, or for that named `only`.

    Raises ValueError for a target that is not there, RuntimeError where atheris is not installed.
    """
    if only is not None and only not in TARGETS:
        raise ValueError(f"no target {only!r}; allowed: {', '.join(TARGETS)}")
    report = Report("fuzz", seed)
    for name in TARGETS if only is None else [only]:
        report.rows.append({"what": name, **_target(name, count, seed)})
    report.summary = {
        "inputs": sum(row["n"] for row in report.rows),
        "failed": sum(row["failed"] for row in report.rows),
        "rss_growth_mb": max(row["rss_growth_mb"] for row in report.rows),
    }
    return report


def _target(name: str, count: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for k, data in enumerate(TARGETS[name].first()):
            (corpus / str(k)).write_bytes(data)
        done = subprocess.run(
            [*_FORKED, sys.executable, "-m", "benchmarks.fuzz", name, f"-runs={count}",
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
    growth_mb = rss[-1] - rss[len(rss) // 2]
    return {
        "n": int(found[-1][0]),
        "coverage": int(found[-1][1]),
        "failed": int(done.returncode != 0 or growth_mb > GROWTH_MB),
        "rss_growth_mb": growth_mb,
        "rss_mb": rss[-1],
        "why": said[-2000:] if done.returncode else "",
        "culprits": culprits,
    }


def main() -> None:
    import atheris

    target = TARGETS[sys.argv.pop(1)]
    for module in (codec, encoding, messages, tensors):
        for function in vars(module).values():
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                atheris.instrument_func(function)  # type: ignore[attr-defined]

    def run_one(data: bytes) -> None:
        with suppress(RequestError):
            target.run(data)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        changed = target.mutate(data, rng)[:max_size] if rng.random() < 0.5 else data
        return atheris.Mutate(data, max_size) if changed == data else changed

    atheris.Setup(sys.argv, run_one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
