"""A small model behind this project's door.

Run as `python -m benchmarks.door_server PORT [MODEL [GRPC_PORT]]`.
"""

from __future__ import annotations

import sys

from benchmarks.served import served
from missile_jax import Model, serve


def main(port: int, name: str = "mlp", grpc_port: int | None = None) -> None:
    chosen = served(name)
    model = Model(
        name, chosen.function, chosen.parameters, example=chosen.example(), priority="latency"
    )
    if grpc_port is None:
        serve([model], http_port=port)
    else:
        serve([model], http_port=port, grpc_port=grpc_port)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:3], *map(int, sys.argv[3:]))
