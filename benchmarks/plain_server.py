"""The least that serves a jitted function over HTTP: what the door is compared with.

Run as `python -m benchmarks.plain_server PORT [MODEL]`. Binary tensors of the Open Inference
Protocol, no checks, no queue: the handler parses the header, calls the function, answers.
"""

from __future__ import annotations

import sys

import numpy as np
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.served import served


def main(port: int, name: str = "mlp") -> None:
    call = served(name).compiled()

    async def infer(request: Request) -> Response:
        body = await request.body()
        size = int(request.headers["inference-header-content-length"])
        header = orjson.loads(body[:size])
        tensor = header["inputs"][0]
        x = np.frombuffer(body[size:], np.float32).reshape(tensor["shape"])
        y = call(x).tobytes()
        output = {
            "name": "output",
            "datatype": "FP32",
            "shape": [1, 10],
            "parameters": {"binary_data_size": len(y)},
        }
        answer = {"model_name": name, "id": header.get("id", ""), "outputs": [output]}
        head = orjson.dumps(answer)
        return Response(
            head + y,
            media_type="application/octet-stream",
            headers={"inference-header-content-length": str(len(head))},
        )

    async def ready(request: Request) -> Response:
        return Response(b"{}")

    routes = [
        Route(f"/v2/models/{name}/infer", infer, methods=["POST"]),
        Route("/v2/health/ready", ready),
    ]
    uvicorn.run(Starlette(routes=routes), port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
