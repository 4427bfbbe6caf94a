"""Servers of small models, one of which comes and goes; see tests/server/harness.py."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))

from harness import Client
from observed import linear

from missile_jax import SLO, Runtime, Tenant
from missile_jax.options import HttpOptions, LogOptions, TraceOptions
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.serve import HttpServer
from missile_jax.server.watch import Watch


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
    """Starts servers, each given back as a client of it, and closes both.

    trace, log: for their watch.
    """
    with ExitStack() as stack:

        def start(
            runtime: Runtime,
            trace: TraceOptions = TraceOptions(),
            log: LogOptions = LogOptions(),
            **options: Any,
        ) -> Client:
            watch = Watch.of(runtime, trace, log)
            if watch is not None:
                stack.callback(watch.close)
            server = stack.enter_context(
                HttpServer(Dataplane(runtime), HttpOptions(port=0), watch=watch, **options)
            )
            client = Client(server)
            stack.callback(client.connection.close)
            return client

        yield start
