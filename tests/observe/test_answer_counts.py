"""What the doors answered, by transport, route and status: also what never came to a model."""

import socket

import grpc
import numpy as np
import pytest
from harness import Client, Gate, tensor
from observed import X
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from missile_jax import Runtime
from missile_jax.options import GrpcOptions, HttpOptions, TokenOptions
from missile_jax.server.auth import Tokens, new_token, sha256
from missile_jax.server.codec import InferRequest, encode_request
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.grpc import messages
from missile_jax.server.grpc.server import GrpcServer
from missile_jax.server.serve import HttpServer

INFER = "/v2/models/{name}/infer"
SERVICE = "inference.GRPCInferenceService"


def counts(client, **headers) -> dict[tuple[str, str, str], float]:
    status, _, body = client.ask("GET", "/metrics", **headers)
    assert status == 200
    return {
        (s.labels["transport"], s.labels["route"], s.labels["code"]): s.value
        for family in text_string_to_metric_families(body.decode())
        for s in family.samples
        if s.name == "missile_server_requests_total"
    }


def test_every_answer_over_http_counts_by_its_route(managed, serve):
    client = serve(managed)
    body, _ = encode_request(InferRequest({"input": X}), binary=False)
    asked = [
        ("POST", "/v2/models/quick/infer", body),
        ("POST", "/v2/models/quick/infer", body),
        ("POST", "/v2/models/quick/versions/1/infer", body),
        ("POST", "/v2/models/quick/infer", b"{"),
        ("POST", "/v2/models/made-up/infer", body),
        ("GET", "/v2/models/quick/infer", None),
        ("GET", "/v2/models/quick", None),
        ("GET", "/v2/models/made-up", None),
        ("POST", "/v2/models/quick", None),
        ("GET", "/made/up", None),
    ]
    for method, path, sent in asked:
        client.ask(method, path, sent)
    with socket.create_connection((client.connection.host, client.connection.port)) as raw:
        raw.sendall(b"what is this\r\n\r\n")
        while raw.recv(4096):
            pass
    assert counts(client) == {
        ("http", INFER, "200"): 2,
        ("http", INFER, "400"): 1,
        ("http", INFER, "404"): 1,
        ("http", INFER, "405"): 1,
        ("http", "/v2/models/{name}/versions/{version}/infer", "200"): 1,
        ("http", "/v2/models/{name}", "200"): 1,
        ("http", "/v2/models/{name}", "404"): 1,
        ("http", "/v2/models/{name}", "405"): 1,
        ("http", "other", "404"): 1,
        ("http", "other", "400"): 1,
    }
    assert counts(client)["http", "/metrics", "200"] == 1


@pytest.fixture
def doors(tmp_path):
    """Both, of a model that takes one request at a time, with a token that may do all."""
    gate, token = Gate(), new_token()
    options = TokenOptions(
        tenant="t", sha256=sha256(token), calls=["infer", "metadata", "admin"], models=["*"]
    )
    with Runtime(cache_dir=tmp_path) as runtime:
        runtime.load(gate.model("gate", queue_limit=1))
        dataplane = Dataplane(runtime, tokens=Tokens([options]))
        with (
            HttpServer(dataplane, HttpOptions(port=0, max_body_bytes=1000)) as http,
            GrpcServer(dataplane, GrpcOptions(port=0)) as rpc,
            grpc.insecure_channel(rpc.url) as channel,
        ):
            client = Client(http)
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            yield gate, runtime, client, stub, f"Bearer {token}"
            gate.open()
            client.connection.close()


def gate_request(value: float, model: str = "gate") -> pb.ModelInferRequest:
    return messages.encode_request(InferRequest({"input": np.float32([[value]])}), model)


def test_what_is_refused_before_it_is_a_models_counts_over_both(doors):
    gate, runtime, client, stub, bearer = doors
    path, metadata = "/v2/models/gate/infer", [("authorization", bearer)]
    assert client.ask("POST", path, tensor(1))[0] == 401
    assert client.ask("POST", path, b" " * 2000, Authorization=bearer)[0] == 413
    for message, given in (
        (gate_request(1), []),
        (gate_request(1, "made-up"), metadata),
        (pb.ModelInferRequest(model_name="gate"), metadata),
    ):
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(message, metadata=given)
    with pytest.raises(grpc.RpcError):
        stub.TraceSetting(pb.TraceSettingRequest())
    stub.ServerLive(pb.ServerLiveRequest())
    with pytest.raises(grpc.RpcError):
        next(stub.ModelStreamInfer(iter([gate_request(1)])))
    stream = [gate_request(1), gate_request(1, "made-up")]
    assert len(list(stub.ModelStreamInfer(iter(stream), metadata=metadata))) == 2
    # One runs, one waits; a third is one too many.
    gate.shut()
    running = stub.ModelInfer.future(gate_request(1), metadata=metadata)
    gate.wait_entered()
    waiting = runtime.submit("gate", np.float32([[2]]))
    assert client.ask("POST", path, tensor(1), Authorization=bearer)[0] == 429
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(gate_request(1), metadata=metadata)
    gate.open()
    running.result()
    waiting.result(60)
    unary, streamed = f"{SERVICE}/ModelInfer", f"{SERVICE}/ModelStreamInfer"
    assert counts(client, Authorization=bearer) == {
        ("http", INFER, "401"): 1,
        ("http", INFER, "413"): 1,
        ("http", INFER, "429"): 1,
        ("grpc", unary, "OK"): 1,
        ("grpc", unary, "UNAUTHENTICATED"): 1,
        ("grpc", unary, "NOT_FOUND"): 1,
        ("grpc", unary, "INVALID_ARGUMENT"): 1,
        ("grpc", unary, "RESOURCE_EXHAUSTED"): 1,
        ("grpc", streamed, "UNAUTHENTICATED"): 1,
        ("grpc", streamed, "OK"): 1,
        ("grpc", streamed, "NOT_FOUND"): 1,
        ("grpc", f"{SERVICE}/TraceSetting", "UNIMPLEMENTED"): 1,
        ("grpc", f"{SERVICE}/ServerLive", "OK"): 1,
    }
