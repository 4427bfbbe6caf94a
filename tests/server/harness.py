"""Small models and a client: what the tests of the server are made of."""

import http.client
import json
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missile_jax import Missile, Model, Runtime
from missile_jax.server.serve import HttpServer

# One request runs, so that the next one waits.
ONE = Missile(latency_launches=1)


class Gate:
    """A model that doubles its input, waits while it is shut, and fails on negative values.

    ran: the values that it was given, in that order. takes_s: how long a run takes at least.
    """

    def __init__(self) -> None:
        self.ran: list[float] = []
        self.takes_s = 0.0
        self._entered = threading.Semaphore(0)
        self._open = threading.Event()
        self.open()

    def open(self) -> None:
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def wait_entered(self) -> None:
        """Return once a run is held up."""
        assert self._entered.acquire(timeout=60), "no run came to the gate"

    def model(self, name: str, **options) -> Model:
        def on_host(x):
            x = np.asarray(x)
            self.ran.extend(x.ravel().tolist())
            time.sleep(self.takes_s)
            if (x < 0).any():
                raise ValueError("a secret of /home/someone")
            if not self._open.is_set():
                self._entered.release()
                assert self._open.wait(60), "the gate was not opened"
            return 2 * x

        def apply(_, x):
            return jax.pure_callback(on_host, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

        return Model(name, apply, {}, example=np.zeros((1, 1), np.float32), **options)


def mlp() -> Model:
    """[B, 4] -> [B, 3], weights all one: each output is the sum of the inputs."""
    params = {"w": np.ones((4, 8), np.float32), "v": np.ones((8, 3), np.float32) / 8}
    return Model(
        "mlp",
        lambda params, x: (x @ params["w"]) @ params["v"],
        params,
        example=np.zeros((1, 4), np.float32),
        priority="latency",
        buckets=[1, 4],
    )


def pair() -> Model:
    """Two inputs and three outputs of several dtypes."""

    def apply(_, inputs):
        total = inputs["ids"].sum(axis=1, keepdims=True)
        return {
            "half": inputs["x"].astype(jnp.bfloat16),
            "positive": total > 0,
            "total": total,
        }

    example = {"ids": np.zeros((1, 3), np.int32), "x": np.zeros((1, 2), np.float16)}
    return Model("pair", apply, {}, example=example, buckets=[1, 2])


def brain() -> Model:
    """[B, 2] of bfloat16, doubled."""
    example = np.zeros((1, 2), jnp.bfloat16)
    return Model("brain", lambda _, x: 2 * x, {}, example=example, buckets=[1, 2])


class Client:
    """One connection to a server."""

    def __init__(self, server: HttpServer) -> None:
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=60)

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> None:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, names)

    def receive(self) -> tuple[int, dict[str, str], bytes]:
        response = self.connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, response.read()

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str):
        """Status, headers and body of the answer."""
        self.send(method, path, body, **headers)
        return self.receive()

    def get(self, path: str):
        """The document behind a path that has one."""
        status, headers, body = self.ask("GET", path)
        assert status == 200, body
        assert headers["content-type"] == "application/json"
        return json.loads(body)

    def error(self, method: str, path: str, body: bytes | None = None, **headers: str):
        """Status and message of an answer that must be an error."""
        status, got, body = self.ask(method, path, body, **headers)
        assert got["content-type"] == "application/json"
        document = json.loads(body)
        assert list(document) == ["error"]
        return status, document["error"]


def tensor(value: float, **request) -> bytes:
    """A JSON request for the gate."""
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [value]}
    return json.dumps({"inputs": [tensor], **request}).encode()


def wait_for_queue(runtime: Runtime, client: Client, depth: int) -> None:
    """Return once `depth` requests wait for the gate; each look is a round trip to the server."""
    for _ in range(20_000):
        if runtime.stats()["models"]["gate"]["queue_depth"] == depth:
            return
        client.get("/v2/health/live")
    pytest.fail(f"the queue never held {depth} requests")
