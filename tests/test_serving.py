"""`serve`, called from Python."""

import json
import sys
import threading
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2_grpc

from missile_jax import ConfigError, Fifo, Model, ModelLoadError, RuntimeClosedError
from missile_jax.options import (
    AdminOptions,
    AuthOptions,
    GrpcOptions,
    HttpOptions,
    ServerOptions,
    TokenOptions,
)
from missile_jax.server.auth import new_token, sha256
from missile_jax.server.codec import InferRequest
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.grpc.messages import decode_response, encode_request
from missile_jax.server.serve import HttpServer
from missile_jax.serving import serve


def double(name: str = "double") -> Model:
    return Model(name, lambda p, x: p * x, np.float32(2), np.zeros((1, 1), np.float32))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MISSILE_CACHE", str(tmp_path))


def ask(url: str, value: float) -> float:
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [value]}
    body = json.dumps({"inputs": [tensor]}).encode()
    with urllib.request.urlopen(f"{url}/v2/models/double/infer", body, timeout=60) as response:
        return json.load(response)["outputs"][0]["data"][0]


def test_serve_without_blocking():
    lines = []
    with serve([double()], http_port=0, block=False, policy=Fifo(), report=lines.append) as serving:
        assert ask(serving.url, 4) == 8
        assert serving.runtime.infer("double", np.float32([[5]])).tolist() == [[10]]
        assert serving.runtime.stats()["policy"] == "fifo"
    assert lines[0] == "loading double"
    assert lines[1].startswith("loaded double (best_effort) in ")
    assert lines[2:] == [f"serving on {serving.url}", "loaded: double"]
    serving.close()
    with pytest.raises(RuntimeClosedError):
        serving.runtime.describe("double")


def test_both_doors_open_and_drain_together(barrier):
    held = barrier()
    model = Model(
        "held", lambda p, x: held.point(x) * p, np.float32(2), np.zeros((1, 1), np.float32)
    )
    lines = []
    serving = serve([model], http_port=0, grpc_port=0, block=False, report=lines.append)
    assert lines[-2] == f"serving on {serving.url} and grpc://{serving.grpc_url}"
    held.shut()
    with grpc.insecure_channel(serving.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        message = encode_request(InferRequest({"input": np.float32([[4]])}), "held")
        answer = stub.ModelInfer.future(message)
        held.wait_entered()
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        closing = threading.Thread(target=serving.close)
        closing.start()
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        held.open()
        assert decode_response(answer.result()).outputs["output"].tolist() == [[8]]
        closing.join()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{serving.url}/v2/health/live", timeout=60)


def test_grpc_without_its_packages_names_what_brings_them(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("missile_jax.server.grpc")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpc_reflection.v1alpha", None)
    with pytest.raises(ConfigError, match=r"gRPC needs missile-jax\[grpc\]: .*grpc_reflection"):
        serve([double()], http_port=0, grpc_port=0, report=pytest.fail)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": [double(), double()]}, "each must have its own"),
        ({"policy": "fif"}, "fif"),
        ({"http_port": 99999}, "port=99999"),
        ({"grpc_port": 99999}, "port=99999"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_loaded(arguments, message):
    with pytest.raises(ConfigError, match=message):
        serve(**{"models": [double()], "http_port": 0, **arguments}, report=pytest.fail)


def test_blocking_needs_the_main_thread():
    caught = []

    def call() -> None:
        with pytest.raises(ConfigError, match="main thread") as error:
            serve([double()], http_port=0)
        caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert caught


def test_a_model_that_cannot_be_loaded_leaves_nothing_behind():
    def bad(params, x):
        raise ValueError("no")

    with serve([double()], http_port=0, block=False) as serving:
        port = int(serving.url.rpartition(":")[2])
    model = Model("bad", bad, {}, example=np.zeros((1, 1), np.float32))
    threads = set(threading.enumerate())
    with pytest.raises(ModelLoadError, match="bad"):
        serve([double(), model], http_port=port, block=False)
    assert set(threading.enumerate()) <= threads
    with serve([double()], http_port=port, block=False) as serving:
        HttpServer(Dataplane(serving.runtime), HttpOptions(port=0)).close()
        assert ask(serving.url, 1) == 2


OPEN = HttpOptions(host="0.0.0.0", port=0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (ServerOptions(http=OPEN), "http.host='0.0.0.0'"),
        (ServerOptions(grpc=GrpcOptions(host="::", port=0)), "grpc.host='::'"),
        (ServerOptions(admin=AdminOptions(host="example.org", port=0)), "admin.host='example.org'"),
    ],
)
def test_what_others_reach_is_not_served_unprotected(options, named):
    with pytest.raises(ConfigError, match=r"auth\.insecure") as caught:
        serve([double()], http_port=0, block=False, options=options)
    assert named in str(caught.value)


@pytest.mark.parametrize("protected", [True, False])
def test_what_others_reach_is_warned_of(protected, caplog):
    token = new_token()
    auth = AuthOptions(insecure=True)
    if protected:
        auth = AuthOptions(tokens=[TokenOptions(tenant="default", sha256=sha256(token))])
    with serve([double()], block=False, options=ServerOptions(http=OPEN, auth=auth)) as serving:
        request = urllib.request.Request(
            serving.url.replace("0.0.0.0", "127.0.0.1") + "/v2",
            headers={"Authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            assert response.status == 200
    (line,) = [r.message for r in caplog.records if r.name == "missile_jax.serving"]
    assert ("in the clear" if protected else "anyone there may do everything") in line


def test_an_admin_port_takes_what_is_for_admins():
    options = ServerOptions(admin=AdminOptions(port=0))
    with serve([double()], http_port=0, block=False, options=options) as serving:
        path = "/v2/repository/models/double/load"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(serving.url + path, b"", timeout=60)
        with caught.value as refused:
            assert refused.code == 404
        with urllib.request.urlopen(serving.admin_url + path, b"", timeout=60) as response:
            assert response.status == 200
        assert ask(serving.url, 4) == ask(serving.admin_url, 4) == 8
