"""A small model behind this project's door.

Run as `python -m benchmarks.door_server PORT [MODEL [GRPC_PORT]]`.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.served import served
from missile_jax import Model, serve


def main(port: int, name: str = "mlp", grpc_port: int | None = None) -> None:
    chosen = served(name)
    model = Model(
        name,
        chosen.function,
        chosen.parameters,
        example=chosen.example(),
        priority="latency",
        buckets=[1, 2, 4, 8],
    )
    doors: dict[str, Any] = {"http_port": port}
    if grpc_port is not None:
        doors["grpc_port"] = grpc_port
    serve([model], **doors)


if __name__ == "__main__":
    port, model, *grpc = (*sys.argv[1:], "mlp")[: max(2, len(sys.argv) - 1)]
    main(int(port), model, *map(int, grpc))
