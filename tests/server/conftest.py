"""A runtime with small models and a real server in front of it."""

from collections.abc import Callable, Iterator

import pytest
from harness import ONE, Client, Gate, mlp, pair

from missile_jax import Runtime
from missile_jax.options import HttpOptions
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.serve import HttpServer


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


@pytest.fixture(autouse=True)
def _open_gate(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "gate" in request.fixturenames:
        request.getfixturevalue("gate").open()


@pytest.fixture(scope="module")
def runtime(gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    with Runtime(cache_dir=tmp_path_factory.mktemp("cache"), policy=ONE) as runtime:
        runtime.load(mlp())
        runtime.load(pair())
        runtime.load(gate.model("gate", priority="latency", queue_limit=1))
        yield runtime


@pytest.fixture(scope="module")
def server(runtime: Runtime) -> Iterator[HttpServer]:
    with HttpServer(
        Dataplane(runtime), HttpOptions(port=0, max_body_bytes=100_000, max_header_bytes=4096)
    ) as server:
        yield server


@pytest.fixture
def connect() -> Iterator[Callable[[HttpServer], Client]]:
    """Makes clients, which are closed at the end of the test."""
    clients: list[Client] = []

    def connect(server: HttpServer) -> Client:
        clients.append(Client(server))
        return clients[-1]

    yield connect
    for client in clients:
        client.connection.close()


@pytest.fixture
def client(server: HttpServer, connect: Callable[[HttpServer], Client]) -> Client:
    return connect(server)
