"""The one load generator of `serving`, in a process of its own, so that no server waits for it.

`Generator` asks ``python -m benchmarks.generator``, which reads a job a line and answers each with
a line, both JSON.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import uvloop

from missile_jax.traffic import Connection, Lost, Outcome, closed_loop, open_loop, precise_loop

INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True, slots=True)
class Job:
    """What to send, over "http" or "grpc", on how many connections and for how long.

    rate: requests a second that are due at random times, or None for the next as soon as the last
    is answered.
    """

    port: int
    request: bytes
    seconds: float
    connections: int
    protocol: str = "http"
    rate: float | None = None
    seed: int = 0


class Generator:
    """The process, as a context manager."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.generator"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, job: Job) -> dict[str, Any]:
        """p50, p95, p99 and max in ms, requests a second, and errors by kind.

        With a rate, ``latencies_ms`` of all that were answered too.

        Raises RuntimeError where no request succeeds.
        """
        document = asdict(job) | {"request": base64.b64encode(job.request).decode()}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(document), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline() or "{}")
        if "p50_ms" not in answer:
            raise RuntimeError(f"no request succeeded: {answer.get('errors', 'it ended')}")
        return answer


class GrpcConnection:
    """One channel, as a `Sender`."""

    def __init__(self, port: int) -> None:
        from grpc import aio

        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = aio.insecure_channel(f"127.0.0.1:{port}", options)
        self._call = self._channel.unary_unary(INFER)
        self._closing: asyncio.Task | None = None
        self.body = b""

    async def send(self, request: bytes) -> int:
        from grpc import RpcError

        try:
            self.body = await self._call(request)
        except RpcError as error:
            raise Lost(str(error.code())) from None  # type: ignore[attr-defined]
        return 200

    def close(self) -> None:
        self._closing = asyncio.ensure_future(self._channel.close())


def sender(port: int, protocol: str) -> Connection | GrpcConnection:
    """What requests of a protocol go out on."""
    return (
        GrpcConnection(port) if protocol == "grpc" else Connection("127.0.0.1", port, timeout_s=20)
    )


async def _load(job: Job) -> Outcome:
    senders = [sender(job.port, job.protocol) for _ in range(job.connections)]
    if job.rate is None:
        return await closed_loop(senders, [job.request], job.seconds)
    return await open_loop(senders, [job.request], arrivals_s(job))


def arrivals_s(job: Job) -> np.ndarray:
    """Ascending offsets [n] at which the requests of a job with a rate are due."""
    assert job.rate is not None
    count = max(1, round(job.rate * job.seconds))
    return np.cumsum(np.random.default_rng(job.seed).exponential(1 / job.rate, count))


def _answer(outcome: Outcome) -> dict[str, Any]:
    ms = outcome.latencies_s * 1e3
    answer: dict[str, Any] = {"errors": outcome.errors}
    if len(ms):
        answer |= {f"p{q}_ms": float(np.percentile(ms, q)) for q in (50, 95, 99)}
        answer |= {"max_ms": float(ms.max()), "n": len(ms), "rps": outcome.rate_per_s}
    return answer


def main() -> None:
    for line in sys.stdin:
        document = json.loads(line)
        job = Job(**document | {"request": base64.b64decode(document["request"])})
        factory = uvloop.new_event_loop if job.rate is None else precise_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            outcome = runner.run(_load(job))
        answer = _answer(outcome)
        if job.rate is not None:
            answer["latencies_ms"] = (outcome.latencies_s * 1e3).tolist()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
