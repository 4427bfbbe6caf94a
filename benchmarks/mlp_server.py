"""The MLP behind this project's door, for `overhead`: `python -m benchmarks.mlp_server PORT`."""

from __future__ import annotations

import sys

import numpy as np

from benchmarks.mlp import mlp, parameters
from missile_jax import Model, serve

if __name__ == "__main__":
    example = np.zeros((1, 784), np.float32)
    model = Model("mlp", mlp, parameters(), example=example, priority="latency")
    serve([model], http_port=int(sys.argv[1]))
