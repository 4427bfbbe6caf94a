"""Models that come, change and go behind a real server, while clients ask."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import jax
import numpy as np
import pytest
from harness import Client, tensor
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from missile_jax import (
    CheckpointError,
    Model,
    ModelNotFoundError,
    ModelSource,
    ModelUnavailableError,
    Runtime,
)
from missile_jax.options import GrpcOptions, HttpOptions
from missile_jax.server.codec import InferRequest
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.grpc.server import GrpcServer
from missile_jax.server.repository import MAX_QUEUED, Repository
from missile_jax.server.serve import HttpServer
from missile_jax.server.tensors import CodecError


class Factory:
    """Makes models that multiply by `factor`, after `held` is open; raises `error` if there is one.

    checked: let the model fail, when it runs, on a factor below 0.
    """

    def __init__(self, factor: float, **options) -> None:
        self.factor = factor
        self.error: Exception | None = None
        self.options = {"example": np.zeros((1, 1), np.float32), **options}
        self.built = threading.Semaphore(0)
        self.held = threading.Event()
        self.held.set()

    def build(self) -> Model:
        self.built.release()
        assert self.held.wait(60), "nobody let the factory go on"
        if self.error is not None:
            raise self.error
        return Model("m", _times, np.float32(self.factor), **self.options)


def _times(factor, x):
    return jax.pure_callback(_times_on_host, jax.ShapeDtypeStruct(x.shape, x.dtype), factor, x)


def _times_on_host(factor, x):
    if factor < 0:
        raise ValueError("a factor from /home/someone is below 0")
    return np.asarray(x) * np.asarray(factor)


@pytest.fixture
def factory() -> Factory:
    return Factory(2)


@pytest.fixture
def later() -> Factory:
    return Factory(7)


@pytest.fixture
def repository(factory, later, tmp_path):
    """`m`, which is loaded, and `later`, which is not."""

    def build_later() -> Model:
        model = later.build()
        return Model("later", model.model, model.params, model.example)

    sources = [ModelSource("m", factory.build), ModelSource("later", build_later, on_request=True)]
    with Runtime(cache_dir=tmp_path) as runtime, Repository(runtime, sources) as repository:
        repository.runtime = runtime
        yield repository
        factory.held.set()


@pytest.fixture
def dataplane(repository) -> Dataplane:
    return Dataplane(repository.runtime, repository)


@pytest.fixture
def client(repository, dataplane, connect) -> Client:
    repository.load("m")
    with HttpServer(dataplane, HttpOptions(port=0)) as server:
        client = connect(server)
        client.server = server
        yield client


def infer(client: Client, value: float = 1, model: str = "m", **request) -> float:
    body = tensor(value, **request)
    status, _, answer = client.ask("POST", f"/v2/models/{model}/infer", body)
    assert status == 200, answer
    return json.loads(answer)["outputs"][0]["data"][0]


def post(client: Client, path: str, document=None):
    body = None if document is None else json.dumps(document).encode()
    status, _, answer = client.ask("POST", f"/v2/repository/{path}", body)
    return status, json.loads(answer)


def states(client: Client, document=None) -> dict[str, tuple[str, str]]:
    status, entries = post(client, "index", document)
    assert status == 200
    assert all(entry["version"] == "1" for entry in entries)
    return {entry["name"]: (entry["state"], entry["reason"]) for entry in entries}


def test_a_reload_reads_the_source_anew(client, factory):
    assert infer(client) == 2
    factory.factor = 3
    assert infer(client) == 2
    assert post(client, "models/m/load") == (200, {})
    assert infer(client) == 3
    body = tensor(1)
    assert client.ask("POST", "/v2/models/m/versions/1/infer", body)[0] == 200
    assert client.get("/v2/models/m")["versions"] == ["1"]


def test_a_model_is_loaded_on_request_and_unloaded(client):
    on_request = ("UNAVAILABLE", "it is loaded on request")
    assert states(client) == {"later": on_request, "m": ("READY", "")}
    assert states(client, {"ready": True}) == {"m": ("READY", "")}
    status, message = client.error("POST", "/v2/models/later/infer", tensor(1))
    assert (status, message) == (
        503,
        "model 'later' is UNAVAILABLE: it is loaded on request",
    )
    assert client.error("GET", "/v2/models/later/ready")[0] == 503
    assert post(client, "models/later/load")[0] == 200
    assert infer(client, model="later") == 7
    assert client.get("/v2/models/later/ready")["ready"]
    assert (
        post(client, "models/later/unload", {"parameters": {"unload_dependents": True}})[0] == 200
    )
    assert states(client)["later"] == ("UNAVAILABLE", "unloaded")
    assert post(client, "models/later/unload")[0] == 200
    assert client.error("POST", "/v2/models/later/infer", tensor(1))[0] == 503


@pytest.mark.parametrize("call", ["load", "unload"])
def test_only_configured_models_can_be_loaded_and_unloaded(client, call):
    status, message = client.error("POST", f"/v2/repository/models/other/{call}")
    assert status == 404
    assert message == "no model named 'other' is configured; allowed: later, m"


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("models/m/load", b'{"parameters": {"config": "{}"}}', 400, "'config' is not supported"),
        (
            "models/m/load",
            b'{"parameters": {"file:1/m.bin": "AA=="}}',
            400,
            "'file:1/m.bin' is not",
        ),
        ("models/m/load", b'{"parameters": 3}', 400, "parameters must be an object"),
        ("models/m/load", b"[]", 400, "JSON object"),
        ("models/m/load", b"{", 400, "not JSON"),
        ("index", b'{"ready": "yes"}', 400, "ready='yes'"),
        ("index", b" " * 70_000, 413, "65536"),
    ],
)
def test_a_request_that_asks_for_more_is_refused(client, path, body, status, message):
    got, text = client.error("POST", f"/v2/repository/{path}", body)
    assert got == status
    assert message in text
    assert infer(client) == 2


def test_a_reload_that_fails_leaves_the_old_version_and_says_why(client, factory, caplog):
    factory.error = CheckpointError("/srv/secret/m is damaged")
    status, message = client.error("POST", "/v2/repository/models/m/load")
    assert status == 503
    why = "CheckpointError; the server's log says why"
    assert message == f"model 'm' was not loaded: {why}"
    assert "/srv/secret/m is damaged" in caplog.text
    assert states(client)["m"] == ("READY", f"reload failed: {why}")
    assert infer(client) == 2
    factory.error = None
    assert post(client, "models/m/load")[0] == 200
    assert states(client)["m"] == ("READY", "")


def test_a_version_that_fails_on_its_example_never_serves(client, factory):
    factory.factor = -1
    status, message = client.error("POST", "/v2/repository/models/m/load")
    assert status == 503
    assert "someone" not in message
    assert infer(client) == 2


def test_what_is_wrong_with_a_model_is_told(client, factory):
    factory.options["example"] = ()
    _, message = client.error("POST", "/v2/repository/models/m/load")
    assert message == "model 'm' was not loaded: model 'm': the example holds no array"


def test_the_old_version_serves_while_the_new_one_is_built(client, factory, connect):
    factory.built.acquire()
    factory.held.clear()
    factory.factor = 5
    loading = connect(client.server)
    loading.send("POST", "/v2/repository/models/m/load")
    assert factory.built.acquire(timeout=60)
    assert states(client)["m"] == ("READY", "")
    assert infer(client) == 2
    factory.held.set()
    assert loading.receive()[0] == 200
    assert infer(client) == 5


def test_loads_of_one_model_run_one_after_the_other(client, factory, connect):
    factory.built.acquire()
    factory.held.clear()
    first, second = connect(client.server), connect(client.server)
    first.send("POST", "/v2/repository/models/m/load")
    assert factory.built.acquire(timeout=60)
    second.send("POST", "/v2/repository/models/m/load")
    assert client.get("/v2/health/live") == {"live": True}
    assert not factory.built.acquire(blocking=False)
    factory.held.set()
    assert first.receive()[0] == second.receive()[0] == 200
    assert factory.built.acquire(blocking=False)


def test_so_many_loads_may_wait_and_no_more(client, factory, connect, dataplane, repository):
    factory.built.acquire()
    factory.held.clear()
    first = connect(client.server)
    first.send("POST", "/v2/repository/models/m/load")
    assert factory.built.acquire(timeout=60)
    waiting = [repository.queue(repository.unload, "later") for _ in range(MAX_QUEUED - 1)]
    for name, call in (("m", "load"), ("later", "unload")):
        status, headers, body = client.ask("POST", f"/v2/repository/models/{name}/{call}")
        assert (status, headers["retry-after"]) == (429, "10")
        assert "64 loads and unloads wait" in json.loads(body)["error"]
    with (
        GrpcServer(dataplane, GrpcOptions(port=0)) as server,
        grpc.insecure_channel(server.url) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m"), timeout=60)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert infer(client) == 2
    waiting.pop().cancel()  # whose place another takes
    another = repository.queue(repository.unload, "later")
    factory.held.set()
    assert first.receive()[0] == 200
    another.result(60)
    assert post(client, "models/later/unload") == (200, {})


def test_a_load_that_outlasts_the_drain_is_answered_as_one(dataplane, repository, factory, connect):
    factory.held.clear()
    server = HttpServer(dataplane, HttpOptions(port=0, drain_s=1)).start()
    client = connect(server)
    client.send("POST", "/v2/repository/models/m/load")
    assert factory.built.acquire(timeout=60)
    server.close()
    status, headers, body = client.receive()
    assert (status, headers["content-type"]) == (503, "application/json")
    assert json.loads(body) == {"error": "the server stopped before the answer was there"}
    factory.held.set()


def test_a_model_may_change_its_inputs_from_one_version_to_the_next(client, factory):
    assert infer(client) == 2
    factory.options["example"] = np.zeros((1, 3), np.float32)
    assert post(client, "models/m/load")[0] == 200
    assert client.get("/v2/models/m")["inputs"][0]["shape"] == [-1, 3]
    assert client.error("POST", "/v2/models/m/infer", tensor(1))[0] == 400


def test_a_server_is_ready_when_its_models_of_startup_are(repository, dataplane, connect):
    with HttpServer(dataplane, HttpOptions(port=0)) as server:
        client = connect(server)
        assert client.get("/v2/health/live") == {"live": True}
        assert client.error("GET", "/v2/health/ready")[0] == 503
        assert client.error("POST", "/v2/models/m/infer", tensor(1))[0] == 503
        repository.load("m")
        assert client.get("/v2/health/ready") == {"ready": True}
        dataplane.draining = True
        assert client.error("GET", "/v2/health/ready")[0] == 503
        assert infer(client) == 2


def test_a_model_that_is_being_loaded_says_so(repository, dataplane, factory):
    factory.held.clear()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(repository.load, "m")
        assert factory.built.acquire(timeout=60)
        with pytest.raises(ModelUnavailableError, match="model 'm' is LOADING"):
            dataplane.submit("m", InferRequest({"input": np.ones((1, 1), np.float32)}))
        factory.held.set()
        assert loading.result(60).name == "m"


def test_models_that_were_loaded_otherwise_are_listed_and_left_alone(repository, dataplane):
    repository.runtime.load(Model("own", lambda _, x: x, {}, example=np.zeros((1, 1), np.float32)))
    assert dataplane.index(ready_only=True)[0]["name"] == "own"
    with pytest.raises(ModelNotFoundError, match="'own' is configured; allowed: later, m"):
        asyncio.run(dataplane.unload_model("own"))
    with pytest.raises(CodecError, match="'config'"):
        asyncio.run(dataplane.load_model("m", {"config": "{}"}))


@pytest.mark.parametrize("other_inputs", [False, True])
def test_a_rolling_reload_under_load_fails_nobody(client, factory, connect, other_inputs):
    """Clients ask all the while; each answer is of a version that was current meanwhile."""
    reloads = 6
    served = [2.0]
    stop = threading.Event()
    answers: list[tuple[int, float, int]] = []

    def ask() -> None:
        mine = connect(client.server)
        while not stop.is_set():
            before = len(served)
            value = infer(mine)
            answers.append((before, value, len(served)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for k in range(reloads):
        factory.factor = 3.0 + k
        if other_inputs:
            factory.options["buckets"] = (1, 2 + k % 2)
        served.append(factory.factor)
        assert post(client, "models/m/load")[0] == 200
        assert post(client, "models/later/load")[0] == 200
        assert infer(client) == factory.factor
    stop.set()
    for thread in threads:
        thread.join()
    assert {value for _, value, _ in answers} <= set(served)
    # A version may be answered from while it, or the one after it, was the latest asked for.
    for before, value, after in answers:
        assert served.index(value) in range(max(0, before - 2), after)
    stats = client.get("/v2/models/m/stats")["model_stats"][0]["inference_stats"]
    assert stats["fail"]["count"] == 0
    assert stats["success"]["count"] == len(answers) + reloads
