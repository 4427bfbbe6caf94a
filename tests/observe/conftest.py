"""Servers of small models, one of which comes and goes; see tests/server/harness.py."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))

from harness import Client

from missile_jax import SLO, Model, Runtime, Tenant
from missile_jax.options import HttpOptions
from missile_jax.server.serve import HttpServer


def linear(name: str, **options: Any) -> Model:
    """[B, 4] -> [B, 256], of 4 kB of parameters."""
    weights = np.ones((4, 256), np.float32)
    return Model(name, lambda p, x: x @ p, weights, example=np.zeros((1, 4), np.float32), **options)


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """A runtime of three models of two tenants that share 1 MiB."""
    with Runtime(
        cache_dir=tmp_path_factory.mktemp("cache"),
        device_memory="1MiB",
        tenants={"a": Tenant(link_weight=2)},
    ) as runtime:
        slo = SLO(deadline_ms=10_000)
        runtime.load(linear("quick", tenant="a", priority="latency", slo=slo, buckets=[1, 4]))
        runtime.load(linear("slow", tenant="a"))
        runtime.load(linear("other", tenant="b"))
        yield runtime


@pytest.fixture
def serve() -> Iterator[Callable[..., Client]]:
    """Starts servers, each given back as a client of it, and closes both."""
    with ExitStack() as stack:

        def start(runtime: Runtime, **options: Any) -> Client:
            server = stack.enter_context(HttpServer(runtime, HttpOptions(port=0), **options))
            client = Client(server)
            stack.callback(client.connection.close)
            return client

        yield start


def beside(client: Client) -> Client:
    """A further client of the same server."""
    return Client(SimpleNamespace(host=client.connection.host, port=client.connection.port))


X = np.ones((1, 4), np.float32)
