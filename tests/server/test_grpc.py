"""Every call over a real channel, every status code, and what happens to those who leave."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from harness import ONE, mlp
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from missile_jax import (
    ConfigError,
    DeviceMemoryError,
    HostMemoryError,
    Model,
    ModelSource,
    Runtime,
)
from missile_jax.options import GrpcOptions
from missile_jax.server.codec import InferRequest
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.grpc.messages import decode_response, encode_request
from missile_jax.server.grpc.server import GrpcServer
from missile_jax.server.grpc.status import Status, status_of
from missile_jax.server.repository import Repository

X = np.arange(4, dtype=np.float32).reshape(1, 4)
NAME = "inference.GRPCInferenceService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
WAIT_S = 60


@pytest.fixture(scope="module")
def grpc_server(runtime) -> Iterator[GrpcServer]:
    options = GrpcOptions(port=0, max_message_bytes=100_000, max_stream_requests=2)
    with GrpcServer(Dataplane(runtime), options) as server:
        yield server


@pytest.fixture
def open_channel() -> Iterator[Callable[[GrpcServer], grpc.Channel]]:
    """Makes channels of their own connection, which are closed at the end of the test."""
    channels: list[grpc.Channel] = []

    def open_channel(server: GrpcServer) -> grpc.Channel:
        own = [("grpc.use_local_subchannel_pool", 1)]
        channels.append(grpc.insecure_channel(server.url, options=own))
        return channels[-1]

    yield open_channel
    for channel in channels:
        channel.close()


@pytest.fixture
def channel(grpc_server, open_channel) -> grpc.Channel:
    return open_channel(grpc_server)


@pytest.fixture
def stub(channel):
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def test_no_method_waits_for_calls_of_its_own(grpc_server, stub):
    async def waiting() -> list[str]:
        return [task.get_coro().__qualname__ for task in asyncio.all_tasks()]

    stub.ServerLive(pb.ServerLiveRequest())
    found = asyncio.run_coroutine_threadsafe(waiting(), grpc_server._loop).result(WAIT_S)
    assert [name for name in found if "request_registered_call" in name] == []
    assert [name for name in found if "request_call" in name]


def request(model: str = "mlp", x: np.ndarray = X, version: str = "", **fields):
    return encode_request(InferRequest({"input": x}, **fields), model, version)


def gate_request(value: float, **fields):
    return request("gate", np.full((1, 1), value, np.float32), **fields)


def outputs(response):
    return {name: array.tolist() for name, array in decode_response(response).outputs.items()}


def failure(call, *args, **kwargs) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, timeout=WAIT_S, **kwargs)
    return caught.value.code(), caught.value.details()


def wait_for_queue(runtime: Runtime, stub, depth: int) -> None:
    """Return once `depth` requests wait for the gate; each look is a round trip to the server."""
    for _ in range(20_000):
        if runtime.stats()["models"]["gate"]["queue_depth"] == depth:
            return
        stub.ServerLive(pb.ServerLiveRequest())
    pytest.fail(f"the queue never held {depth} requests")


def test_infer(stub):
    response = stub.ModelInfer(request(id="request-7"))
    assert (response.model_name, response.model_version, response.id) == ("mlp", "1", "request-7")
    assert outputs(response) == {"output": [[6, 6, 6]]}


def test_infer_with_typed_contents(stub):
    message = pb.ModelInferRequest(model_name="mlp")
    tensor = message.inputs.add(name="input", datatype="FP32", shape=[1, 4])
    tensor.contents.fp32_contents.extend([0, 1, 2, 3])
    assert outputs(stub.ModelInfer(message)) == {"output": [[6, 6, 6]]}


def test_outputs_are_those_asked_for_in_that_order(stub):
    inputs = {"x": np.ones((2, 2), np.float16), "ids": np.arange(6, dtype=np.int32).reshape(2, 3)}
    every = stub.ModelInfer(encode_request(InferRequest(inputs), "pair"))
    assert list(outputs(every)) == ["half", "positive", "total"]
    wanted = {"total": True, "half": True}
    some = stub.ModelInfer(encode_request(InferRequest(inputs, outputs=wanted), "pair"))
    assert list(outputs(some)) == ["total", "half"]
    assert outputs(some)["total"] == [[3], [12]]


def test_what_there_is(stub):
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    assert stub.ServerMetadata(pb.ServerMetadataRequest()).name == "missile-jax"
    for version, ready in (("", True), ("1", True), ("2", False)):
        answer = stub.ModelReady(pb.ModelReadyRequest(name="mlp", version=version))
        assert answer.ready == ready
    assert not stub.ModelReady(pb.ModelReadyRequest(name="nope")).ready
    (tensor,) = stub.ModelMetadata(pb.ModelMetadataRequest(name="mlp")).inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("input", "FP32", [-1, 4])
    config = stub.ModelConfig(pb.ModelConfigRequest(name="pair")).config
    assert (config.max_batch_size, list(config.input[0].dims)) == (2, [3])
    (mine,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="mlp")).model_stats
    assert mine.inference_stats.HasField("cache_hit")
    every = stub.ModelStatistics(pb.ModelStatisticsRequest()).model_stats
    assert [stats.name for stats in every] == ["gate", "mlp", "pair"]


def test_the_repository(tmp_path, open_channel):
    def model(name: str) -> Model:
        return Model(name, lambda _, x: x, {}, example=X)

    sources = [ModelSource(name, partial(model, name), on_request=True) for name in "ab"]
    with (
        Runtime(cache_dir=tmp_path, policy=ONE) as runtime,
        Repository(runtime, sources) as repository,
        GrpcServer(Dataplane(runtime, repository), GrpcOptions(port=0)) as server,
    ):
        repository.load("a")
        stub = service_pb2_grpc.GRPCInferenceServiceStub(open_channel(server))

        def states(ready: bool = False):
            found = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready)).models
            return {model.name: model.state for model in found}

        assert states() == {"a": "READY", "b": "UNAVAILABLE"}
        assert states(ready=True) == {"a": "READY"}
        assert not stub.ModelReady(pb.ModelReadyRequest(name="b")).ready
        code, text = failure(stub.ModelInfer, request("b"))
        assert (code, "loaded on request" in text) == (grpc.StatusCode.UNAVAILABLE, True)
        load = pb.RepositoryModelLoadRequest(model_name="b")
        load.parameters["config"].string_param = "{}"
        code, text = failure(stub.RepositoryModelLoad, load)
        assert (code, "'config' is not supported" in text) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            True,
        )
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="b"))
        assert states() == {"a": "READY", "b": "READY"}
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="a"))
        assert states(ready=True) == {"b": "READY"}
        code, text = failure(
            stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="c")
        )
        assert (code, "no model named 'c' is configured" in text) == (
            grpc.StatusCode.NOT_FOUND,
            True,
        )


@pytest.mark.parametrize(
    ("call", "message", "code", "text"),
    [
        ("ModelMetadata", pb.ModelMetadataRequest(name="nope"), "NOT_FOUND", "nope"),
        ("ModelConfig", pb.ModelConfigRequest(name="nope"), "NOT_FOUND", "nope"),
        ("ModelStatistics", pb.ModelStatisticsRequest(name="nope"), "NOT_FOUND", "nope"),
        ("ModelInfer", request("nope"), "NOT_FOUND", "nope"),
        ("ModelInfer", request(version="2"), "NOT_FOUND", "version '2'"),
        ("ModelInfer", pb.ModelInferRequest(model_name="mlp"), "INVALID_ARGUMENT", "inputs"),
        ("ModelInfer", request(x=np.ones((1, 5), np.float32)), "INVALID_ARGUMENT", "shape"),
        ("ModelInfer", request(x=np.ones((5, 4), np.float32)), "INVALID_ARGUMENT", "5"),
        ("ModelInfer", request(x=X.astype(np.int64)), "INVALID_ARGUMENT", "int64"),
        ("ModelInfer", request(outputs={"no": True}), "INVALID_ARGUMENT", "no output 'no'"),
        ("ModelInfer", request(x=np.ones((1, 30_000), np.float32)), "RESOURCE_EXHAUSTED", "100000"),
        (
            "SystemSharedMemoryStatus",
            pb.SystemSharedMemoryStatusRequest(),
            "INVALID_ARGUMENT",
            "does not take system shared memory",
        ),
        ("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest(), "UNIMPLEMENTED", "CUDA"),
        ("CudaSharedMemoryRegister", pb.CudaSharedMemoryRegisterRequest(), "UNIMPLEMENTED", "CUDA"),
        (
            "CudaSharedMemoryUnregister",
            pb.CudaSharedMemoryUnregisterRequest(),
            "UNIMPLEMENTED",
            "CUDA",
        ),
        ("TraceSetting", pb.TraceSettingRequest(), "UNIMPLEMENTED", "trace"),
        ("LogSettings", pb.LogSettingsRequest(), "UNIMPLEMENTED", "log"),
    ],
)
def test_errors_say_what_is_wrong(stub, call, message, code, text):
    got, details = failure(getattr(stub, call), message)
    assert got is grpc.StatusCode[code]
    assert text in details


def test_a_model_that_fails_tells_nothing_of_itself_and_hurts_no_other(stub, caplog):
    code, text = failure(stub.ModelInfer, gate_request(-1))
    assert code is grpc.StatusCode.INTERNAL
    assert text == "model 'gate' failed; the server's log says why"
    assert "a secret of" in caplog.text
    assert outputs(stub.ModelInfer(request())) == {"output": [[6, 6, 6]]}


@pytest.mark.parametrize("error", [DeviceMemoryError("3 of 4 GiB"), HostMemoryError("3 of 4 GiB")])
def test_errors_of_memory_tell_no_sizes(error):
    code, text = status_of(error, "the server")
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "GiB" not in text


def test_a_request_that_was_cancelled_within_says_so():
    future = Future()
    future.cancel()
    with pytest.raises(BaseException) as caught:
        future.result()
    assert status_of(caught.value, "") == Status(
        grpc.StatusCode.CANCELLED, "the request was cancelled"
    )


def test_a_full_queue_says_so(runtime, stub, gate):
    gate.shut()
    running = stub.ModelInfer.future(gate_request(1))
    gate.wait_entered()
    waiting = stub.ModelInfer.future(gate_request(2))
    wait_for_queue(runtime, stub, 1)
    assert failure(stub.ModelInfer, gate_request(3))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    gate.open()
    assert outputs(running.result()) == {"output": [[2]]}
    assert outputs(waiting.result()) == {"output": [[4]]}


def test_the_shorter_of_timeout_and_deadline_holds(runtime, stub, gate):
    def expired() -> int:
        return runtime.stats()["models"]["gate"]["expire_count"]

    gate.shut()
    running = stub.ModelInfer.future(gate_request(1))
    gate.wait_entered()
    before = expired()
    code, text = failure(stub.ModelInfer, gate_request(1, timeout_us=1000))
    assert (code, "1.0 ms" in text) == (grpc.StatusCode.DEADLINE_EXCEEDED, True)
    assert expired() == before + 1
    message = gate_request(1, timeout_us=3_600_000_000)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(message, timeout=0.05)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for_queue(runtime, stub, 0)
    gate.open()
    assert outputs(running.result()) == {"output": [[2]]}


@pytest.mark.parametrize("leave", ["cancel", "close"])
def test_a_client_that_leaves_cancels_its_request(
    runtime, grpc_server, open_channel, stub, gate, leave
):
    gate.shut()
    before = runtime.stats()["models"]["gate"]["cancel_count"]
    running = stub.ModelInfer.future(gate_request(1))
    gate.wait_entered()
    channel = open_channel(grpc_server)
    leaving = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    call = leaving.ModelInfer.future(gate_request(2))
    wait_for_queue(runtime, stub, 1)
    if leave == "cancel":
        call.cancel()
    else:
        channel.close()
    wait_for_queue(runtime, stub, 0)
    assert runtime.stats()["models"]["gate"]["cancel_count"] == before + 1
    gate.open()
    assert outputs(running.result()) == {"output": [[2]]}


def texts(responses):
    return [response.error_message for response in responses]


def test_a_stream_answers_each_request_and_goes_on_after_errors(stub):
    messages = [request(id="0"), request("nope", id="1"), gate_request(-1, id="2"), request(id="3")]
    answers = {answer.infer_response.id: answer for answer in stub.ModelStreamInfer(iter(messages))}
    assert set(answers) == {"0", "1", "2", "3"}
    assert outputs(answers["0"].infer_response) == {"output": [[6, 6, 6]]}
    assert "nope" in answers["1"].error_message
    assert answers["2"].error_message == "model 'gate' failed; the server's log says why"
    assert outputs(answers["3"].infer_response) == {"output": [[6, 6, 6]]}
    for answer in answers.values():
        assert answer.infer_response.parameters["triton_final_response"].bool_param


def test_a_stream_answers_in_the_order_in_which_answers_are_ready(stub, gate):
    gate.shut()
    answered = threading.Event()

    def messages():
        yield gate_request(1, id="slow")
        gate.wait_entered()
        yield request("nope", id="quick")
        assert answered.wait(WAIT_S)
        gate.open()

    stream = stub.ModelStreamInfer(messages())
    assert next(stream).infer_response.id == "quick"
    answered.set()
    assert [answer.infer_response.id for answer in stream] == ["slow"]


def test_a_stream_takes_so_many_requests_at_a_time(runtime, stub, gate):
    """Of two that may be under way both wait for the gate, so a third is not even looked at."""
    gate.shut()
    stream = stub.ModelStreamInfer(iter([gate_request(1), gate_request(2), request("nope")]))
    gate.wait_entered()
    wait_for_queue(runtime, stub, 1)
    gate.open()
    first, *others = texts(stream)
    assert (first, sum("nope" in text for text in others), len(others)) == ("", 1, 2)


def test_a_stream_whose_client_leaves_cancels_its_requests(runtime, stub, gate):
    gate.shut()
    before = runtime.stats()["models"]["gate"]["cancel_count"]
    stream = stub.ModelStreamInfer(iter([gate_request(1), gate_request(2)]))
    gate.wait_entered()
    wait_for_queue(runtime, stub, 1)
    stream.cancel()
    wait_for_queue(runtime, stub, 0)
    gate.open()
    assert runtime.run_until_idle()
    assert runtime.stats()["models"]["gate"]["cancel_count"] == before + 2


def test_a_stream_client_that_reads_nothing_and_leaves_is_forgotten(stub, caplog):
    large = np.ones((4, 4), np.float32)
    for _ in range(20):
        stub.ModelStreamInfer(iter([request(x=large)] * 50)).cancel()
    assert outputs(stub.ModelInfer(request())) == {"output": [[6, 6, 6]]}
    assert not caplog.records


# Health and reflection.


def test_health(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", NAME):
        assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING
    code, _ = failure(health.Check, health_pb2.HealthCheckRequest(service="nope"))
    assert code is grpc.StatusCode.NOT_FOUND
    watched = health.Watch(health_pb2.HealthCheckRequest(service="nope"))
    assert next(watched).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watched.cancel()


def test_health_follows_readiness(tmp_path, open_channel):
    with (
        Runtime(cache_dir=tmp_path, policy=ONE) as runtime,
        GrpcServer(Dataplane(runtime), GrpcOptions(port=0)) as server,
    ):
        runtime.load(mlp())
        channel = open_channel(server)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        watched = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=NAME)
        )
        assert next(watched).status == SERVING
        runtime.close()
        assert next(watched).status == NOT_SERVING
        assert not stub.ServerReady(pb.ServerReadyRequest()).ready
        assert stub.ServerLive(pb.ServerLiveRequest()).live
        assert failure(stub.ModelInfer, request())[0] is grpc.StatusCode.UNAVAILABLE
        watched.cancel()


def test_reflection_lists_the_services(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {
        NAME,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    file = database.FindFileContainingSymbol(NAME)
    assert "ModelInfer" in [method.name for method in file.service[0].method]


# Start and end.


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 99999), ("not a host", 0)])
def test_an_address_that_is_none_is_refused(runtime, host, port):
    with pytest.raises(ConfigError, match=f"port={port}"):
        GrpcServer(
            Dataplane(runtime), GrpcOptions().model_copy(update={"host": host, "port": port})
        )


def test_a_port_in_use_is_refused_at_once(runtime, grpc_server):
    threads = threading.active_count()
    with pytest.raises(ConfigError, match=f"port={grpc_server.port}"):
        GrpcServer(Dataplane(runtime), GrpcOptions(port=grpc_server.port))
    assert threading.active_count() == threads


def test_a_server_that_was_never_started_gives_its_port_back(runtime):
    never = GrpcServer(Dataplane(runtime), GrpcOptions(port=0))
    never.close()
    with GrpcServer(Dataplane(runtime), GrpcOptions(port=never.port)):
        pass


def test_close_waits_for_requests_in_flight_and_may_be_called_again(runtime, gate, open_channel):
    gate.shut()
    server = GrpcServer(Dataplane(runtime), GrpcOptions(port=0)).start()
    channel = open_channel(server)
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    assert next(watched).status == SERVING
    messages = Endless(gate_request(4))
    stream = stub.ModelStreamInfer(iter(messages))
    gate.wait_entered()
    unary = stub.ModelInfer.future(gate_request(5))
    wait_for_queue(runtime, stub, 1)
    closing = threading.Thread(target=server.close)
    closing.start()
    assert next(watched).status == NOT_SERVING
    gate.open()
    assert outputs(next(stream).infer_response) == {"output": [[8]]}
    assert outputs(unary.result()) == {"output": [[10]]}
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "the server is stopping"
    messages.more.set()
    closing.join()
    server.close()
    with pytest.raises(grpc.RpcError) as caught:
        stub.ServerLive(pb.ServerLiveRequest())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_close_does_not_wait_for_ever(runtime, gate, open_channel):
    gate.shut()
    server = GrpcServer(Dataplane(runtime), GrpcOptions(port=0, drain_s=0.2)).start()
    stub = service_pb2_grpc.GRPCInferenceServiceStub(open_channel(server))
    unary = stub.ModelInfer.future(gate_request(4))
    gate.wait_entered()
    messages = Endless(gate_request(5))
    stream = stub.ModelStreamInfer(iter(messages))
    wait_for_queue(runtime, stub, 1)
    server.close()
    for call in (unary.result, lambda: next(stream)):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "the server stopped before the answer was there"
    messages.more.set()
    gate.open()
    assert runtime.run_until_idle()


class Endless:
    """Messages of a stream that its client leaves open for as long as `more` is not set."""

    def __init__(self, *messages) -> None:
        self._messages = iter(messages)
        self.more = threading.Event()

    def __iter__(self):
        yield from self._messages
        assert self.more.wait(WAIT_S)
