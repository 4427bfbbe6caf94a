"""Answers every inference over gRPC with the same bytes: the most that a front end on grpc.aio
could do, in one process or in several that share a port.

Run as `python -m benchmarks.grpc_floor_server PORT MODEL [PROCESSES]`.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import grpc
import uvloop
from tritonclient.grpc import service_pb2 as pb

from benchmarks.served import served


class Floor(grpc.GenericRpcHandler):
    """One handler for all calls, which neither reads nor makes a message."""

    def __init__(self, answer: bytes) -> None:
        async def same(*_: Any) -> bytes:
            return answer

        self._same = grpc.unary_unary_rpc_method_handler(same)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return self._same


async def main(port: int, answer: bytes) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
    server.add_generic_rpc_handlers((Floor(answer),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def answer_of(model: str) -> bytes:
    """What `model` says of its example."""
    net = served(model)
    y = net.compiled()(net.example())
    response = pb.ModelInferResponse(model_name=model)  # type: ignore[attr-defined]
    response.outputs.add(name="output", datatype="FP32", shape=y.shape)
    response.raw_output_contents.append(y.tobytes())
    return response.SerializeToString()


if __name__ == "__main__":
    port, model, *processes = sys.argv[1:]
    for _ in range(int(processes[0] if processes else 1) - 1):
        subprocess.Popen([sys.executable, "-m", "benchmarks.grpc_floor_server", port, model])
    uvloop.run(main(int(port), answer_of(model)))
