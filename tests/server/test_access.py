"""Both doors with tokens: who is let in, what each may do, and what each may see."""

import dataclasses
import json
from collections.abc import Iterator
from typing import NamedTuple

import grpc
import numpy as np
import pytest
from harness import Client, mlp, pair
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from missile_jax import ModelSource, Runtime
from missile_jax.options import (
    GrpcOptions,
    HttpOptions,
    ObserveOptions,
    SharedMemoryOptions,
    TokenOptions,
)
from missile_jax.server.auth import Tokens, new_token, sha256
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.grpc.server import GrpcServer
from missile_jax.server.openapi import document
from missile_jax.server.repository import Repository
from missile_jax.server.serve import HttpServer

X = np.arange(4, dtype=np.float32).reshape(1, 4)
TENSOR = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [0, 1, 2, 3]}
BODY = json.dumps({"inputs": [TENSOR]}).encode()
# The models: mlp is red's, pair is blue's; later is configured and not loaded.
RIGHTS = {
    "red": {"tenant": "red"},
    "batch": {"tenant": "red", "priorities": ["best_effort"]},
    "probe": {"tenant": "red", "calls": ["metadata"], "models": ["mlp", "later"]},
    "boss": {"tenant": "boss", "calls": ["infer", "metadata", "admin"], "models": ["*"]},
}


class Doors(NamedTuple):
    http: HttpServer
    grpc: GrpcServer
    tokens: dict[str, str]


@pytest.fixture(scope="module")
def doors(tmp_path_factory) -> Iterator[Doors]:
    tokens = {name: new_token() for name in RIGHTS}
    known = [
        TokenOptions.model_validate({"sha256": sha256(tokens[name]), **rights})
        for name, rights in RIGHTS.items()
    ]
    red, blue = (
        dataclasses.replace(mlp(), tenant="red"),
        dataclasses.replace(pair(), tenant="blue"),
    )
    later = ModelSource("later", lambda: dataclasses.replace(mlp(), name="later"), True)
    sources = [ModelSource.of(red), ModelSource.of(blue), later]
    with (
        Runtime(cache_dir=tmp_path_factory.mktemp("cache")) as runtime,
        Repository(runtime, sources) as repository,
    ):
        repository.load("mlp")
        repository.load("pair")
        dataplane = Dataplane(
            runtime, repository, SharedMemoryOptions(system=True), tokens=Tokens.of(known)
        )
        observe = ObserveOptions(page=True)
        with (
            HttpServer(dataplane, HttpOptions(port=0), observe=observe) as http,
            GrpcServer(dataplane, GrpcOptions(port=0)) as rpc,
        ):
            yield Doors(http, rpc, tokens)


@pytest.fixture
def ask(doors, connect):
    client: Client = connect(doors.http)

    def ask(who: str | None, method: str, path: str, body: bytes | None = None):
        headers = {} if who is None else {"Authorization": f"Bearer {doors.tokens.get(who, who)}"}
        status, got, answer = client.ask(method, path, body, **headers)
        return status, got, answer.decode("latin-1")

    return ask


@pytest.fixture
def call(doors):
    with grpc.insecure_channel(doors.grpc.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def call(who: str | None, method: str, request):
            token = doors.tokens.get(str(who), who)
            metadata = [] if who is None else [("authorization", f"Bearer {token}")]
            return getattr(stub, method)(request, metadata=metadata, timeout=60)

        yield call


def code(call, *args) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args)
    return caught.value.code(), caught.value.details()


ROUTES = [
    ("GET", "/v2", "metadata"),
    ("GET", "/v2/openapi.json", "metadata"),
    ("GET", "/v2/models/stats", "metadata"),
    ("GET", "/v2/models/mlp", "metadata"),
    ("GET", "/v2/models/mlp/ready", "metadata"),
    ("GET", "/v2/models/mlp/config", "metadata"),
    ("GET", "/v2/models/mlp/versions/1/stats", "metadata"),
    ("POST", "/v2/repository/index", "metadata"),
    ("POST", "/v2/models/mlp/infer", "infer"),
    ("POST", "/v2/models/mlp/versions/1/infer", "infer"),
    ("POST", "/v2/repository/models/mlp/load", "admin"),
    ("POST", "/v2/repository/models/later/unload", "admin"),
    ("GET", "/v2/timeline?seconds=0.01", "admin"),
    ("GET", "/v2/metering.csv", "admin"),
    ("GET", "/metrics", "admin"),
    ("GET", "/", "admin"),
    ("GET", "/v2/page.json", "admin"),
    ("GET", "/v2/systemsharedmemory/status", "admin"),
    ("POST", "/v2/systemsharedmemory/unregister", "admin"),
]


@pytest.mark.parametrize(("method", "path", "kind"), ROUTES)
def test_every_route_asks_for_a_token_that_allows_it(ask, doors, method, path, kind):
    body = BODY if path.endswith("/infer") else None
    for who in (None, new_token()):
        status, headers, text = ask(who, method, path, body)
        assert status == 401
        assert headers["www-authenticate"].startswith("Bearer")
        assert list(json.loads(text)) == ["error"]
    calls = {
        who: rights.get("calls", ["infer", "metadata"])
        for who, rights in RIGHTS.items()
        if who != "batch"
    }
    for who, allowed in calls.items():
        status, _, text = ask(who, method, path, body)
        assert status == (200 if kind in allowed else 403), (who, text)
        assert doors.tokens[who] not in text


def test_no_route_is_left_out(ask):
    for path, item in document()["paths"].items():
        filled = path.format(name="mlp", version="1")
        for method in item.keys() - {"parameters"}:
            expected = 200 if path.startswith("/v2/health/") else 401
            assert ask(None, method.upper(), filled)[0] == expected, path


def test_health_is_for_everyone(ask, call):
    assert ask(None, "GET", "/v2/health/live")[0] == 200
    assert ask(None, "GET", "/v2/health/ready")[0] == 200
    assert call(None, "ServerReady", pb.ServerReadyRequest()).ready


def test_what_is_another_tenants_is_not_there(ask):
    for who in ("red", "probe"):
        for path in ("", "/ready", "/config", "/stats"):
            hidden = ask(who, "GET", f"/v2/models/pair{path}")
            missing = ask(who, "GET", f"/v2/models/nope{path}")
            assert hidden[0] == missing[0] == 404
            assert hidden[2].replace("pair", "nope") == missing[2]
    hidden = ask("red", "POST", "/v2/models/pair/infer", BODY)
    missing = ask("red", "POST", "/v2/models/nope/infer", BODY)
    assert (hidden[0], hidden[2].replace("pair", "nope")) == (missing[0], missing[2])
    assert missing[0] == 404


def test_a_model_that_a_token_names_is_there_before_it_is_loaded(ask):
    assert ask("probe", "GET", "/v2/models/later")[0] == 503
    assert ask("red", "GET", "/v2/models/later")[0] == 404


@pytest.mark.parametrize(
    ("who", "names"),
    [("red", ["mlp"]), ("probe", ["later", "mlp"]), ("boss", ["later", "mlp", "pair"])],
)
def test_lists_hold_what_the_caller_may_see(ask, call, who, names):
    index = json.loads(ask(who, "POST", "/v2/repository/index")[2])
    assert [model["name"] for model in index] == names
    loaded = [name for name in names if name != "later"]
    stats = json.loads(ask(who, "GET", "/v2/models/stats")[2])["model_stats"]
    assert [model["name"] for model in stats] == loaded
    index = call(who, "RepositoryIndex", pb.RepositoryIndexRequest())
    assert [model.name for model in index.models] == names
    stats = call(who, "ModelStatistics", pb.ModelStatisticsRequest())
    assert [model.name for model in stats.model_stats] == loaded


def test_a_class_that_a_token_does_not_allow_is_refused(ask):
    status, _, text = ask("batch", "POST", "/v2/models/mlp/infer", BODY)
    assert status == 403
    assert "best_effort" in text
    lowered = json.dumps({"inputs": [TENSOR], "parameters": {"priority": "best_effort"}})
    assert ask("batch", "POST", "/v2/models/mlp/infer", lowered.encode())[0] == 200


def test_regions_of_shared_memory_are_not_for_tenants(ask):
    part = {"shared_memory_region": "r", "shared_memory_byte_size": 16}
    entry = {"name": "input", "datatype": "FP32", "shape": [1, 4], "parameters": part}
    body = json.dumps({"inputs": [entry]}).encode()
    assert "does not take" in ask("red", "POST", "/v2/models/mlp/infer", body)[2]
    assert "no shared memory region" in ask("boss", "POST", "/v2/models/mlp/infer", body)[2]


def infer_message(model: str = "mlp") -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name="input", datatype="FP32", shape=[1, 4])
    message.raw_input_contents.append(X.tobytes())
    return message


@pytest.mark.parametrize(
    ("method", "request_", "kind"),
    [
        ("ServerMetadata", pb.ServerMetadataRequest(), "metadata"),
        ("ModelReady", pb.ModelReadyRequest(name="mlp"), "metadata"),
        ("ModelMetadata", pb.ModelMetadataRequest(name="mlp"), "metadata"),
        ("ModelConfig", pb.ModelConfigRequest(name="mlp"), "metadata"),
        ("ModelStatistics", pb.ModelStatisticsRequest(name="mlp"), "metadata"),
        ("RepositoryIndex", pb.RepositoryIndexRequest(), "metadata"),
        ("ModelInfer", infer_message(), "infer"),
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="mlp"), "admin"),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="later"), "admin"),
        ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(), "admin"),
        ("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(), "admin"),
    ],
)
def test_every_call_asks_for_a_token_that_allows_it(call, method, request_, kind):
    for who in (None, new_token()):
        assert code(call, who, method, request_)[0] is grpc.StatusCode.UNAUTHENTICATED
    assert call("boss", method, request_) is not None
    for who in ("red", "probe"):
        if kind in RIGHTS[who].get("calls", ["infer", "metadata"]):
            assert call(who, method, request_) is not None
        else:
            assert code(call, who, method, request_)[0] is grpc.StatusCode.PERMISSION_DENIED


def test_what_is_another_tenants_is_not_there_over_grpc(call):
    assert not call("red", "ModelReady", pb.ModelReadyRequest(name="pair")).ready
    for method, make in (
        ("ModelMetadata", lambda name: pb.ModelMetadataRequest(name=name)),
        ("ModelStatistics", lambda name: pb.ModelStatisticsRequest(name=name)),
        ("ModelInfer", infer_message),
    ):
        hidden = code(call, "red", method, make("pair"))
        missing = code(call, "red", method, make("nope"))
        assert hidden[0] is missing[0] is grpc.StatusCode.NOT_FOUND
        assert hidden[1].replace("pair", "nope") == missing[1]


def test_a_stream_asks_for_a_token(call):
    stream = call(None, "ModelStreamInfer", iter([infer_message()]))
    assert code(next, stream)[0] is grpc.StatusCode.UNAUTHENTICATED
    (answer,) = call("red", "ModelStreamInfer", iter([infer_message()]))
    assert answer.error_message == ""
    (answer,) = call("red", "ModelStreamInfer", iter([infer_message("pair")]))
    assert answer.error_message == "no model named 'pair'"


def test_a_public_port_beside_an_admin_port_has_nothing_for_admins(tmp_path, connect):
    with Runtime(cache_dir=tmp_path) as runtime:
        runtime.load(mlp())
        dataplane = Dataplane(runtime, shared_memory=SharedMemoryOptions(system=True))
        with (
            HttpServer(dataplane, HttpOptions(port=0), admin=False) as public,
            HttpServer(dataplane, HttpOptions(port=0)) as admin,
            GrpcServer(dataplane, GrpcOptions(port=0), admin=False) as rpc,
            grpc.insecure_channel(rpc.url) as channel,
        ):
            outside, inside = connect(public), connect(admin)
            for method, path, kind in ROUTES:
                if kind == "admin" and "page" not in path and path != "/":
                    (status, text), here = outside.error(method, path), inside.ask(method, path)
                    assert (status, text.partition(" '")[0]) == (404, "no route"), path
                    assert b"Not Found" not in here[2], path
            assert outside.ask("POST", "/v2/models/mlp/infer", BODY)[0] == 200
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            request = pb.RepositoryModelUnloadRequest(model_name="mlp")
            assert code(stub.RepositoryModelUnload, request)[0] is grpc.StatusCode.UNIMPLEMENTED
            assert stub.ModelReady(pb.ModelReadyRequest(name="mlp")).ready
