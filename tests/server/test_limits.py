"""What a client may take of the server, tried from outside."""

import contextlib
import gzip
import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness import Client, tensor
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from missile_jax.options import GrpcOptions, HttpOptions, LimitOptions, TokenOptions
from missile_jax.server.auth import Tokens, new_token, sha256
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.grpc.server import GrpcServer
from missile_jax.server.serve import HttpServer

LIVE = b"GET /v2/health/live HTTP/1.1\r\n\r\n"
HEAD = b"POST /v2/models/gate/infer HTTP/1.1\r\ncontent-length: %d\r\n\r\n"
# What a client of HTTP/2 says first: the magic words and empty settings.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
LIMITS = LimitOptions(max_tensors=3, max_parameters=4, max_text_chars=50)


@pytest.fixture(scope="module")
def hasty(runtime) -> Iterator[HttpServer]:
    options = HttpOptions(port=0, head_timeout_s=0.2, body_timeout_s=0.2)
    with HttpServer(Dataplane(runtime, limits=LIMITS), options) as server:
        yield server


@pytest.fixture
def plug() -> Iterator[Callable[[HttpServer | GrpcServer], socket.socket]]:
    """Makes bare connections."""
    with contextlib.ExitStack() as stack:

        def plug(server: HttpServer | GrpcServer) -> socket.socket:
            made = socket.create_connection((server.host, server.port), timeout=60)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return stack.enter_context(made)

        yield plug


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    return b"".join(iter(lambda: connection.recv(4096), b""))


# Time.


@pytest.mark.parametrize(
    ("sent", "status", "part"),
    [
        (b"GET /v2 HTTP/1.1\r\nname: ", b"408", b"head"),
        (HEAD % 9 + b"{", b"408", b"body"),
        (LIVE + b"GET /v2 HT", b"408", b"head"),
    ],
)
def test_a_request_that_does_not_arrive_is_told_so(hasty, plug, sent, status, part):
    connection = plug(hasty)
    connection.sendall(sent)
    answer = read_all(connection).rsplit(b"HTTP/1.1 ", 1)[1]
    assert answer.startswith(status)
    assert b"the %b of the request did not arrive within 0.2 s" % part in answer


def test_a_request_that_trickles_is_as_late_as_one_that_stops(hasty, plug):
    connection = plug(hasty)
    connection.sendall(HEAD % 10**6)
    connection.settimeout(0.01)
    answer = b""
    while not answer:
        connection.sendall(b" ")
        with contextlib.suppress(TimeoutError):
            answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(("asked", "sent"), [(False, b""), (False, b"\r\n"), (True, b"\r\n")])
def test_a_connection_that_asks_for_nothing_is_closed(hasty, plug, asked, sent):
    connection = plug(hasty)
    if asked:
        connection.sendall(LIVE)
        assert connection.recv(4096).endswith(b'{"live":true}')
    connection.sendall(sent)
    assert read_all(connection) == b""


def test_a_body_that_still_comes_after_its_answer_is_cut(hasty, plug):
    connection = plug(hasty)
    connection.sendall(HEAD % 10**12 + b"{")
    answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_waiting_for_an_answer_is_not_late(hasty, plug, gate):
    gate.shut()
    connection, clock = plug(hasty), plug(hasty)
    body = tensor(4)
    connection.sendall(HEAD % len(body) + body)
    gate.wait_entered()
    connection.sendall(b"GET /v2/health/li")
    assert read_all(clock) == b""  # so long it takes
    gate.open()
    connection.sendall(b"ve HTTP/1.1\r\nconnection: close\r\n\r\n")
    assert read_all(connection).count(b"HTTP/1.1 200 OK") == 2


def test_a_grpc_connection_that_is_silent_is_closed(runtime, plug):
    options = GrpcOptions(port=0, handshake_timeout_s=0.2)
    with GrpcServer(Dataplane(runtime), options) as server:
        connection = plug(server)
        read_all(connection)
        with grpc.insecure_channel(server.url) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert stub.ServerLive(pb.ServerLiveRequest(), timeout=60).live


# Connections.


def test_one_http_connection_too_many_is_refused_until_another_leaves(runtime, plug):
    with HttpServer(Dataplane(runtime), HttpOptions(port=0, max_connections=2)) as server:
        first, second = plug(server), plug(server)
        for connection in (first, second):
            connection.sendall(LIVE)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        refused = read_all(plug(server))
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"there are 2 connections already" in refused
        first.close()
        answer = b"HTTP/1.1 503 "
        while answer.startswith(b"HTTP/1.1 503 "):
            with contextlib.suppress(ConnectionError):
                connection = plug(server)
                connection.sendall(LIVE)
                answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200 ")


def channel_to(server: GrpcServer, **options) -> grpc.Channel:
    """One that shares its connection with no other."""
    return grpc.insecure_channel(
        server.url, [("grpc.use_local_subchannel_pool", 1), *options.items()]
    )


def stub_of(channel: grpc.Channel) -> service_pb2_grpc.GRPCInferenceServiceStub:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def test_one_grpc_connection_too_many_is_refused(runtime):
    options = GrpcOptions(port=0, max_connections=1)
    with (
        GrpcServer(Dataplane(runtime), options) as server,
        channel_to(server) as first,
        channel_to(server) as second,
    ):
        assert stub_of(first).ServerLive(pb.ServerLiveRequest(), timeout=60).live
        with pytest.raises(grpc.RpcError) as caught:
            stub_of(second).ServerLive(pb.ServerLiveRequest(), timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def message(value: float = 1) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="gate")
    request.inputs.add(name="input", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(np.float32(value).tobytes())
    return request


def test_one_grpc_call_too_many_of_a_connection_waits(runtime, gate):
    options = GrpcOptions(port=0, max_connection_calls=1)
    with GrpcServer(Dataplane(runtime), options) as server, channel_to(server) as channel:
        stub = stub_of(channel)
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=60).live
        gate.shut()
        running = stub.ModelInfer.future(message(), timeout=60)
        gate.wait_entered()
        with pytest.raises(grpc.RpcError) as caught:
            stub.ServerLive(pb.ServerLiveRequest(), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        gate.open()
        assert running.result() is not None
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=60).live


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()


def test_one_grpc_call_too_many_is_refused_unless_it_asks_for_health(runtime, gate):
    options = GrpcOptions(port=0, max_calls=2)
    with (
        GrpcServer(Dataplane(runtime), options) as server,
        channel_to(server) as channel,
        channel_to(server) as other,
    ):
        gate.shut()
        running = stub_of(channel).ModelInfer.future(message(), timeout=60)
        gate.wait_entered()
        said_all = threading.Event()

        def messages() -> Iterator[pb.ModelInferRequest]:
            yield pb.ModelInferRequest(model_name="nope")
            assert said_all.wait(60)

        stream = stub_of(channel).ModelStreamInfer(messages())
        assert "inputs" in next(stream).error_message  # it is there, and stays
        stub = stub_of(other)
        for call in (
            lambda: stub.ModelInfer(message(), timeout=60),
            lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name="gate"), timeout=60),
            lambda: next(stub.ModelStreamInfer(iter([message()]), timeout=60)),
        ):
            assert code_of(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=60).live
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=60).ready
        health = health_pb2_grpc.HealthStub(other)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=60).status == 1
        gate.open()
        assert running.result() is not None
        assert stub.ModelMetadata(pb.ModelMetadataRequest(name="gate"), timeout=60).name == "gate"
        said_all.set()
        assert list(stream) == []


def test_watching_health_has_a_limit_of_its_own(runtime):
    options = GrpcOptions(port=0, max_calls=1)
    with GrpcServer(Dataplane(runtime), options) as server, channel_to(server) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        watch = health.Watch(request)
        assert next(watch).status == 1
        code = code_of(lambda: next(health.Watch(request)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        stub = stub_of(channel)
        assert stub.ModelMetadata(pb.ModelMetadataRequest(name="gate"), timeout=60).name == "gate"
        watch.cancel()


def test_an_idle_grpc_connection_is_closed_and_its_client_comes_again(runtime, plug):
    options = GrpcOptions(port=0, idle_timeout_s=0.2)
    with GrpcServer(Dataplane(runtime), options) as server, channel_to(server) as channel:
        connection = plug(server)
        connection.sendall(PREFACE)
        assert read_all(connection)  # settings and a good-bye
        states: queue.Queue[grpc.ChannelConnectivity] = queue.Queue()
        channel.subscribe(states.put)
        for _ in range(2):
            assert stub_of(channel).ServerLive(pb.ServerLiveRequest(), timeout=60).live
            while states.get(timeout=60) is not grpc.ChannelConnectivity.IDLE:
                pass


# Sizes. Bodies and heads over HTTP: test_http.py, test_http_encoding.py and test_protocol.py.


@pytest.mark.parametrize(
    ("metadata", "compression"), [([("name", "a" * 5000)], None), ([], grpc.Compression.Gzip)]
)
def test_too_much_for_one_grpc_call(runtime, metadata, compression):
    options = GrpcOptions(port=0, max_metadata_bytes=2048, max_message_bytes=10_000)
    request = message()
    request.raw_input_contents[0] = bytes(20_000 if compression else 4)
    with GrpcServer(Dataplane(runtime), options) as server, channel_to(server) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            stub_of(channel).ModelInfer(
                request, metadata=metadata, compression=compression, timeout=60
            )
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


ENTRY = {"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [1]}
DEEP = b'{"inputs":' + b"[" * 2000 + b"]" * 2000 + b"}"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"inputs": [ENTRY] * 4}, "inputs must be at most 3 tensors, got 4"),
        ({"inputs": [ENTRY], "outputs": [{"name": "o"}] * 4}, "outputs must be at most 3"),
        ({"inputs": [ENTRY], "parameters": dict.fromkeys("abcde", 1)}, "at most 4 parameters"),
        ({"inputs": [ENTRY | {"parameters": dict.fromkeys("abcde", 1)}]}, "inputs: at most 4"),
        ({"inputs": [ENTRY], "id": "a" * 51}, "id must have at most 50 characters, got 51"),
        ({"inputs": [ENTRY | {"name": "a" * 51}]}, "inputs: a name must have at most 50"),
        ({"inputs": [ENTRY], "parameters": {"a" * 51: 1}}, "a parameter's name must have at"),
        (
            {"inputs": [ENTRY], "parameters": {"a": "a" * 51}},
            "request: a parameter must have at most 50",
        ),
        ({"inputs": [ENTRY | {"shape": [1] * 33}]}, "at most 32 sizes"),
        (
            {"inputs": [{**ENTRY, "shape": [2, 2], "data": [1]}]},
            "data has shape [1]",
        ),
        (DEEP, "the body is not JSON"),
    ],
)
def test_too_much_in_one_request(hasty, connect, document, message):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    status, text = connect(hasty).error("POST", "/v2/models/gate/infer", body)
    assert status == 400
    assert message in text
    assert len(text) < 300


def add_tensors(request):
    for _ in range(3):
        request.inputs.add(name="x")


def add_parameters(request):
    for name in "abcde":
        request.parameters[name].int64_param = 1


def lengthen(request):
    request.inputs[0].parameters["a"].string_param = "a" * 51


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (add_tensors, "inputs must be at most 3 tensors, got 4"),
        (add_parameters, "at most 4 parameters, got 5"),
        (lengthen, "at most 50 characters, got 51"),
        (lambda request: setattr(request, "id", "a" * 51), "id must have at most 50"),
        (lambda request: request.inputs[0].shape.append(2), "4 bytes do not hold FP32"),
    ],
)
def test_too_much_in_one_message(runtime, change, text):
    request = message()
    change(request)
    with (
        GrpcServer(Dataplane(runtime, limits=LIMITS), GrpcOptions(port=0)) as server,
        channel_to(server) as channel,
    ):
        with pytest.raises(grpc.RpcError) as caught:
            stub_of(channel).ModelInfer(request, timeout=60)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert text in caught.value.details()


@pytest.mark.parametrize("size", [0, 3, 5, 8])
def test_a_binary_tensor_has_the_size_of_its_shape_and_datatype(client, size):
    entry = {"name": "input", "datatype": "FP32", "shape": [1, 1]}
    head = json.dumps({"inputs": [entry | {"parameters": {"binary_data_size": size}}]}).encode()
    status, text = client.error(
        "POST",
        "/v2/models/gate/infer",
        head + bytes(size),
        Inference_Header_Content_Length=str(len(head)),
    )
    assert status == 400
    assert f"{size} bytes do not hold FP32" in text


# What errors tell.


def test_no_error_tells_of_the_machine_the_code_or_a_token(runtime, connect):
    token = new_token()
    known = Tokens([TokenOptions(tenant="default", sha256=sha256(token), calls=["infer", "admin"])])
    options = HttpOptions(port=0, max_body_bytes=10_000, max_header_bytes=2048)
    good = {"Authorization": f"Bearer {token}"}
    infer = "/v2/models/gate/infer"
    provoked: list[tuple[int, str, str, bytes | None, dict[str, str]]] = [
        (400, "POST", infer, b"{", good),
        (400, "POST", infer, tensor(1, parameters={"timeout": "soon"}), good),
        (400, "POST", infer, tensor(1, outputs=[{"name": "no"}]), good),
        (400, "POST", infer, b"x", good | {"Content_Encoding": "gzip"}),
        (400, "GET", "/v2/timeline?seconds=never", None, good),
        (400, "POST", "/v2/systemsharedmemory/region/r/register", b"{}", good),
        (400, "POST", "/v2/repository/models/gate/load", b'{"parameters": 1}', good),
        (401, "POST", infer, tensor(1), {}),
        (401, "POST", infer, tensor(1), {"Authorization": f"Bearer {token}x"}),
        (401, "POST", infer, tensor(1), {"Authorization": f"Basic {token}"}),
        (403, "GET", "/v2/models/gate", None, good),
        (404, "GET", "/../../etc/passwd", None, good),
        (404, "POST", "/v2/models/..%2f..%2fetc/infer", tensor(1), good),
        (404, "POST", "/v2/repository/models/gate/load", b"{}", good),
        (405, "GET", infer, None, good),
        (413, "POST", infer, b" " * 10_001, good),
        (413, "POST", infer, gzip.compress(bytes(10_001)), good | {"Content_Encoding": "gzip"}),
        (415, "POST", infer, b"x", good | {"Content_Encoding": "br"}),
        (431, "GET", "/v2", None, good | {"Name": "a" * 3000}),
        (500, "POST", infer, tensor(-1), good),
    ]  # fmt: skip
    with HttpServer(Dataplane(runtime, tokens=known), options) as server:
        for status, method, path, body, headers in provoked:
            client: Client = connect(server)
            got, text = client.error(method, path, body, **headers)
            assert got == status, (path, text)
            for secret in (token, "Traceback", ".py", "site-packages", "/home", "/tmp", "/dev"):
                assert secret not in text, (path, text)
