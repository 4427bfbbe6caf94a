"""Models and clients for the tests of what can be seen."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from harness import Client

from missile_jax import Model

X = np.ones((1, 4), np.float32)


def linear(name: str, **options: Any) -> Model:
    """[B, 4] -> [B, 256], of 4 kB of parameters."""
    weights = np.ones((4, 256), np.float32)
    return Model(name, lambda p, x: x @ p, weights, example=np.zeros((1, 4), np.float32), **options)


def beside(client: Client) -> Client:
    """A further client of the same server."""
    return Client(SimpleNamespace(host=client.connection.host, port=client.connection.port))
