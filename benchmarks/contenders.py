"""Who serves in `serving`: this project's door, a bare handler, and other servers.

A peer runs in an environment of its own, made under out/peers/ on first use, with the versions
pinned here.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from missile_jax.client import LENGTH_HEADER
from missile_jax.server.codec import InferRequest, decode_response, encode_request

PEERS = Path("out/peers")
# Of a peer that asks for no other: JAX as this project is tested with.
_JAX = ("jax==0.10.2", "jaxlib==0.10.2")
REQUIREMENTS = {
    "mlserver": ("mlserver==1.7.1", *_JAX),
    "kserve": ("kserve==0.21.0", *_JAX),
    "ray_serve": ("ray[serve]==2.60.0", *_JAX),
    "litserve": ("litserve==0.2.19", *_JAX),
    "pytriton": ("nvidia-pytriton==0.5.14", "jax<0.5"),
}
# No servers: what grpc.aio could do at most, in one process and in two that share a port.
GRPC_FLOORS = ("floor", "floor-of-two")


@dataclass(frozen=True, slots=True)
class Contender:
    """A server and one way to ask it.

    name: of the server. form: "binary", "json", or "grpc" for what goes over gRPC, as binary does.
    command: (first of three free ports, model) -> what to run; PORT for HTTP, PORT + 1 for gRPC.
    request: (model, x) -> what to send. logits: the body of the answer -> [1, 10].
    """

    name: str
    form: str
    command: Callable[[int, str], Sequence[str]]
    request: Callable[[str, np.ndarray], bytes]
    logits: Callable[[bytes], np.ndarray]

    @property
    def protocol(self) -> str:
        """Such as ``"http"``."""
        return "grpc" if self.form == "grpc" else "http"

    @property
    def label(self) -> str:
        """Such as ``"ours binary"``."""
        return f"{self.name} {self.form}"


def contenders(peers: Sequence[str], protocols: Sequence[str]) -> list[Contender]:
    """The door in each form, the bare handler, `peers` and gRPC's floors, over `protocols`."""
    chosen = [
        Contender("ours", "binary", _ours, infer_request, _from_binary),
        Contender("ours", "json", _ours, _json, _from_json),
        Contender("plain", "binary", _module("plain_server"), infer_request, _from_binary),
    ]
    of_peers = {
        "mlserver": [("json", _json, _from_json), ("grpc", _grpc, _from_grpc)],
        "kserve": [("binary", infer_request, _from_binary), ("grpc", _grpc, _from_grpc)],
        "ray_serve": [("binary", _raw, _from_raw)],
        "litserve": [("json", _list, _from_list)],
        "pytriton": [("binary", infer_request, _from_binary), ("grpc", _grpc, _from_grpc)],
    }
    for peer in peers:
        chosen += [Contender(peer, form, _peer(peer), *codec) for form, *codec in of_peers[peer]]
    if "grpc" in protocols:
        chosen.append(Contender("ours", "grpc", _ours_grpc, _grpc, _from_grpc))
        for processes, name in enumerate(GRPC_FLOORS, 1):
            command = _grpc_floor(processes)
            chosen.append(Contender(name, "grpc", command, _grpc, _from_grpc))
    return [c for c in chosen if c.protocol in protocols]


def install(peer: str) -> str:
    """Make the environment of `peer`, unless it is there. Says why it cannot be, or nothing."""
    folder = PEERS / peer
    stamp = folder / "installed.txt"
    wanted = "\n".join(REQUIREMENTS[peer])
    if stamp.exists() and stamp.read_text() == wanted:
        return ""
    try:
        venv.create(folder, clear=True, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no environment: {error}"
    done = subprocess.run(
        [folder / "bin/python", "-m", "pip", "install", "-qq", "--disable-pip-version-check",
         *REQUIREMENTS[peer]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return "\n".join(errors) or f"pip failed:\n{done.stderr.strip()[-1500:]}"
    stamp.write_text(wanted)
    return ""


# How each is started.


def _module(name: str) -> Callable[[int, str], Sequence[str]]:
    return lambda port, model: [sys.executable, "-m", f"benchmarks.{name}", str(port), model]


def _peer(name: str) -> Callable[[int, str], Sequence[str]]:
    python = str(PEERS / name / "bin/python")
    return lambda port, model: [python, "-m", f"benchmarks.peers.{name}", str(port), model]


_ours = _module("door_server")


def _grpc_floor(processes: int) -> Callable[[int, str], Sequence[str]]:
    module = "benchmarks.grpc_floor_server"
    return lambda port, model: [
        sys.executable, "-m", module, str(port + 1), model, str(processes)
    ]  # fmt: skip


def _ours_grpc(port: int, model: str) -> Sequence[str]:
    return [*_ours(port, model), str(port + 1)]


# What each is sent, and what it answers.


def _http(path: str, body: bytes, content_type: str, *headers: str) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def infer_request(model: str, x: np.ndarray) -> bytes:
    """An HTTP request with `x` as the raw bytes of the tensor "input"."""
    body, length = encode_request(InferRequest({"input": x}, binary=True))
    return _http(
        f"/v2/models/{model}/infer", body, "application/octet-stream", f"{LENGTH_HEADER}: {length}"
    )


def _from_binary(body: bytes) -> np.ndarray:
    return np.frombuffer(body[-40:], np.float32)[None]


def _json(model: str, x: np.ndarray) -> bytes:
    body, _ = encode_request(InferRequest({"input": x}), binary=False)
    return _http(f"/v2/models/{model}/infer", body, "application/json")


def _from_json(body: bytes) -> np.ndarray:
    return decode_response(body).outputs["output"]


def _list(_: str, x: np.ndarray) -> bytes:
    body = orjson.dumps({"input": x.ravel()}, option=orjson.OPT_SERIALIZE_NUMPY)
    return _http("/predict", body, "application/json")


def _from_list(body: bytes) -> np.ndarray:
    return np.array([orjson.loads(body)["output"]], np.float32)


def _raw(_: str, x: np.ndarray) -> bytes:
    return _http("/", x.tobytes(), "application/octet-stream")


def _from_raw(body: bytes) -> np.ndarray:
    return np.frombuffer(body, np.float32)[None]


def _grpc(model: str, x: np.ndarray) -> bytes:
    from tritonclient.grpc import service_pb2 as pb

    request = pb.ModelInferRequest(model_name=model)  # type: ignore[attr-defined]
    request.inputs.add(name="input", datatype="FP32", shape=x.shape)
    request.raw_input_contents.append(x.tobytes())
    return request.SerializeToString()


def _from_grpc(body: bytes) -> np.ndarray:
    from tritonclient.grpc import service_pb2 as pb

    response = pb.ModelInferResponse.FromString(body)  # type: ignore[attr-defined]
    if response.raw_output_contents:
        return np.frombuffer(response.raw_output_contents[0], np.float32)[None]
    return np.array([response.outputs[0].contents.fp32_contents], np.float32)
