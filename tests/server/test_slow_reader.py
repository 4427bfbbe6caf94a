"""A client that asks for much and takes nothing loses its connection, and nobody else does."""

import select
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from harness import mlp

from missile_jax import Model, Runtime
from missile_jax.options import HttpOptions
from missile_jax.server.codec import InferRequest, encode_request
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.serve import HttpServer

OPENAPI = b"GET /v2/openapi.json HTTP/1.1\r\n\r\n"
FLOATS = 2**22  # 16 MiB, more than a kernel keeps of an answer


@pytest.fixture(scope="module")
def runtime(tmp_path_factory) -> Iterator[Runtime]:
    with Runtime(cache_dir=tmp_path_factory.mktemp("cache")) as runtime:
        runtime.load(mlp())
        runtime.load(
            Model(
                "wide",
                lambda _, x: x.repeat(FLOATS, axis=1),
                {},
                example=np.zeros((1, 1), np.float32),
            )
        )
        yield runtime


@pytest.fixture(scope="module")
def impatient(runtime) -> Iterator[HttpServer]:
    with HttpServer(Dataplane(runtime), HttpOptions(port=0, write_timeout_s=0.2)) as server:
        yield server


def wide(connection: bytes = b"keep-alive") -> bytes:
    body, length = encode_request(InferRequest({"input": np.ones((1, 1), np.float32)}, binary=True))
    return (
        b"POST /v2/models/wide/infer HTTP/1.1\r\nconnection: %b\r\ncontent-length: %d\r\n"
        b"inference-header-content-length: %d\r\n\r\n%b"
        % (connection, len(body), length or 0, body)
    )


def small_window(server: HttpServer) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect((server.host, server.port))
    return connection


def is_reset(connection: socket.socket) -> bool:
    """Waits until the server resets `connection`, without reading from it."""
    poll = select.poll()
    poll.register(connection, 0)  # errors alone
    found = poll.poll(60_000)
    return bool(found) and bool(found[0][1] & (select.POLLERR | select.POLLHUP))


@pytest.mark.parametrize(
    "asked",
    [wide(), wide(b"close"), wide() * 3, OPENAPI * 1000],
    ids=["one answer", "the last answer", "several answers", "many answers by starlette"],
)
def test_who_takes_no_answers_is_cut_off(impatient, connect, asked):
    with small_window(impatient) as connection:
        try:
            connection.sendall(asked)
        except ConnectionResetError:
            pass
        else:
            assert is_reset(connection)
    assert connect(impatient).get("/v2/health/live") == {"live": True}


def test_who_takes_them_in_time_gets_them_whole(runtime, connect):
    with (
        HttpServer(Dataplane(runtime), HttpOptions(port=0, write_timeout_s=60)) as server,
        small_window(server) as connection,
    ):
        connection.sendall(wide(b"close"))
        stream = connection.makefile("rb")
        while stream.readline() != b"\r\n":
            pass
        assert len(stream.read()) > 4 * FLOATS
        stream.close()
