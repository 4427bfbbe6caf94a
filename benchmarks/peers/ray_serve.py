"""Ray Serve with one replica: raw float32 in, raw float32 out, at /."""

from __future__ import annotations

import sys
import threading

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

PORT, MODEL = int(sys.argv[1]), sys.argv[2]


@serve.deployment(num_replicas=1, max_ongoing_requests=100)
class Replica:
    """A model of `benchmarks.served`."""

    def __init__(self, name: str) -> None:
        from benchmarks.served import served

        self._shape, self._run = served(name).shape, served(name).compiled()

    async def __call__(self, request: Request) -> Response:
        x = np.frombuffer(await request.body(), np.float32).reshape(self._shape)
        return Response(self._run(x).tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    ray.init("local", include_dashboard=False, configure_logging=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Replica.bind(MODEL))
    threading.Event().wait()
