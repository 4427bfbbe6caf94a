"""Clients that are killed: `python -m benchmarks.victims`, for `door_soak`.

Reads a `Plan` as a line of JSON. Each client is a process of its own, which is killed with SIGKILL
within some milliseconds of getting where its kind wants it. Says how many of each kind there were,
as a line of JSON. Imports no JAX, so that it may fork.

head, body: HTTP, within the request's head or its body. sent: with the request sent. large: within
a body of megabytes. answer: within an answer of megabytes. garbage: after a request some of whose
bytes were changed. call: gRPC, within a call. stream: within a stream that has requests.
"""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass

KINDS = ("head", "body", "sent", "large", "answer", "garbage", "call", "stream")
_SERVICE = "/inference.GRPCInferenceService/"
_LONGEST_S = 0.006


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send where, and how many clients there are.

    sent: an HTTP request that takes a while. large, wide: those with a large body, and with a large
    answer. message: a gRPC request.
    """

    http_port: int
    grpc_port: int
    kills: int
    seed: int
    sent: bytes
    large: bytes
    wide: bytes
    message: bytes

    def to_json(self) -> str:
        """Inverse of `from_json`."""
        return json.dumps(asdict(self), default=lambda data: base64.b64encode(data).decode())

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Inverse of `to_json`."""
        fields = json.loads(text)
        for name in ("sent", "large", "wide", "message"):
            fields[name] = base64.b64decode(fields[name])
        return cls(**fields)


def _http(plan: Plan, data: bytes, reads: int = 0) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", plan.http_port))
    connection.sendall(data)
    if reads:
        connection.recv(reads)
    return connection


def _garbage(plan: Plan, rng: random.Random) -> socket.socket:
    data = bytearray(plan.sent)
    for _ in range(rng.randint(1, 20)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return _http(plan, bytes(data))


def _call(plan: Plan) -> object:
    import grpc

    channel = grpc.insecure_channel(f"127.0.0.1:{plan.grpc_port}")
    grpc.channel_ready_future(channel).result()
    return channel, channel.unary_unary(_SERVICE + "ModelInfer").future(plan.message)


def _stream(plan: Plan) -> object:
    import grpc

    channel = grpc.insecure_channel(f"127.0.0.1:{plan.grpc_port}")
    answers = channel.stream_stream(_SERVICE + "ModelStreamInfer")(iter([plan.message] * 8))
    return channel, next(answers)


def _act(kind: str, plan: Plan, rng: random.Random) -> object:
    """Gets where `kind` wants it; what it gives holds the connection."""
    head = plan.sent.index(b"\r\n\r\n")
    acts: dict[str, Callable[[], object]] = {
        "head": lambda: _http(plan, plan.sent[: rng.randrange(1, head)]),
        "body": lambda: _http(plan, plan.sent[: rng.randrange(head + 4, len(plan.sent))]),
        "sent": lambda: _http(plan, plan.sent),
        "large": lambda: _http(plan, plan.large[: rng.randrange(len(plan.large))]),
        "answer": lambda: _http(plan, plan.wide, reads=1000),
        "garbage": lambda: _garbage(plan, rng),
        "call": lambda: _call(plan),
        "stream": lambda: _stream(plan),
    }
    return acts[kind]()


def _kill_one(kind: str, plan: Plan, rng: random.Random) -> None:
    there, tell = os.pipe()
    client = os.fork()
    if client == 0:
        held = _act(kind, plan, rng)
        os.write(tell, b"!")
        signal.pause()
        del held
        os._exit(1)
    os.close(tell)
    said = os.read(there, 1)
    os.close(there)
    time.sleep(rng.uniform(0, _LONGEST_S))
    os.kill(client, signal.SIGKILL)
    _, status = os.waitpid(client, 0)
    if said != b"!" or not os.WIFSIGNALED(status):
        raise RuntimeError(f"a client of the kind {kind!r} ended before it was killed")


def main() -> None:
    plan = Plan.from_json(sys.stdin.readline())
    rng, done = random.Random(plan.seed), Counter[str]()
    for n in range(plan.kills):
        kind = KINDS[n % len(KINDS)]
        _kill_one(kind, plan, rng)
        rng.random()  # else a client and the next one draw the same
        done[kind] += 1
    print(json.dumps(done))


if __name__ == "__main__":
    main()
