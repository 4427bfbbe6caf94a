"""Large requests and answers, which a thread decodes and encodes, over both doors."""

import asyncio
import gzip
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import grpc
import numpy as np
import pytest
from harness import Client, tensor, wait_for_queue
from tritonclient.grpc import service_pb2_grpc

from missile_jax import Model, Runtime
from missile_jax.options import GrpcOptions, HttpOptions
from missile_jax.server import http
from missile_jax.server.codec import InferRequest, decode_response, encode_request
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.grpc import messages, service
from missile_jax.server.grpc.server import GrpcServer
from missile_jax.server.serve import HttpServer
from missile_jax.server.workers import Workers

FLOATS = 2**20
X = np.random.default_rng(0).normal(size=(1, FLOATS)).astype(np.float32)


@pytest.fixture(scope="module")
def door(tmp_path_factory) -> Iterator[tuple[Runtime, HttpServer, GrpcServer]]:
    """Both doors to a latency model and another one, which both negate 4 MiB."""
    with Runtime(cache_dir=tmp_path_factory.mktemp("cache")) as runtime:
        for name, priority in (("urgent", "latency"), ("bulk", "best_effort")):
            runtime.load(Model(name, lambda _, x: -x, {}, example=0 * X, priority=priority))
        dataplane = Dataplane(runtime)
        with (
            HttpServer(dataplane, HttpOptions(port=0)) as http_server,
            GrpcServer(dataplane, GrpcOptions(port=0)) as grpc_server,
        ):
            yield runtime, http_server, grpc_server


def ask(client: Client, model: str, request: InferRequest, *, binary: bool = True, **headers):
    body, length = encode_request(request, binary=binary)
    if length is not None:
        headers["Inference_Header_Content_Length"] = str(length)
    if "Content_Encoding" in headers:
        body = gzip.compress(body, 1)
    status, got, answer = client.ask("POST", f"/v2/models/{model}/infer", body, **headers)
    assert status == 200, answer
    if got.get("content-encoding") == "gzip":
        answer = gzip.decompress(answer)
    found = got.get("inference-header-content-length")
    return decode_response(answer, None if found is None else int(found)).outputs["output"]


@pytest.mark.parametrize("model", ["urgent", "bulk"])
@pytest.mark.parametrize(
    ("binary_in", "binary_out", "headers"),
    [
        (True, True, {}),
        (False, True, {}),
        (True, False, {}),
        (True, True, {"Content_Encoding": "gzip", "Accept_Encoding": "gzip"}),
    ],
    ids=["binary", "json in", "json out", "gzip"],
)
def test_large_tensors_come_and_go_whole(door, connect, model, binary_in, binary_out, headers):
    client = connect(door[1])
    for sign in (1, -1):  # on one connection
        request = InferRequest({"input": sign * X}, binary=binary_out)
        answer = ask(client, model, request, binary=binary_in, **headers)
        np.testing.assert_array_equal(answer, -sign * X)


def test_large_tensors_come_and_go_whole_over_grpc(door):
    message = messages.encode_request(InferRequest({"input": X}), "bulk")
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(door[2].url, options=options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        unary = stub.ModelInfer(message)
        (streamed,) = stub.ModelStreamInfer(iter([message]))
    for response in (unary, streamed.infer_response):
        answer = messages.decode_response(response).outputs["output"]
        np.testing.assert_array_equal(answer, -X)


def test_many_large_bodies_at_a_time_are_all_read(door, connect):
    answers = []

    def send(k: int) -> None:
        answer = ask(connect(door[1]), "bulk", InferRequest({"input": k * X}, binary=True))
        answers.append(np.array_equal(answer, -k * X))

    threads = [threading.Thread(target=send, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 6


class Held:
    """The thread for best-effort models, held up inside a ``with`` block."""

    def __init__(self, workers: Workers) -> None:
        self._executor = workers._best_effort
        self._go_on = threading.Event()

    def __enter__(self) -> Future[bool]:
        self._held = self._executor.submit(self._go_on.wait, 60)
        return self._held

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        assert self._held.result()


def test_large_requests_of_latency_models_do_not_wait_for_those_of_others(door, connect):
    with Held(door[1]._app.workers):
        answer = ask(connect(door[1]), "urgent", InferRequest({"input": X}, binary=True))
    np.testing.assert_array_equal(answer, -X)


def test_a_client_that_leaves_before_its_large_request_is_queued_is_given_up(
    server, connect, client, gate, runtime, monkeypatch
):
    monkeypatch.setattr(http, "LARGE_BYTES", 1)
    monkeypatch.setattr(Dataplane, "is_latency", lambda *_: False)
    before = runtime.stats()["models"]["gate"]["cancel_count"]
    gate.shut()
    running, leaving = connect(server), connect(server)
    running.send("POST", "/v2/models/gate/infer", tensor(1))
    gate.wait_entered()
    with Held(server._app.workers):
        leaving.send("POST", "/v2/models/gate/infer", tensor(2))
        wait_for_waiting(server._app.workers, client, 1)
        leaving.connection.close()
        # By the time the server answers this, it has noticed.
        assert client.get("/v2/health/live") == {"live": True}
    wait_for_waiting(server._app.workers, client, 0)
    wait_for_queue(runtime, client, 0)
    gate.open()
    assert running.receive()[0] == 200
    stats = runtime.stats()["models"]["gate"]
    assert stats["cancel_count"] == before + 1


def wait_for_waiting(workers: Workers, client: Client, count: int) -> None:
    for _ in range(20_000):
        if workers._best_effort._work_queue.qsize() == count:
            return
        client.get("/v2/health/live")
    pytest.fail(f"there were never {count} requests for the thread")


def test_a_grpc_call_that_is_cancelled_before_it_is_queued_is_never_queued(door, monkeypatch):
    monkeypatch.setattr(service, "LARGE_BYTES", 1)
    runtime, server, over_grpc = door
    before = runtime.stats()["models"]["bulk"]
    client, workers = Client(server), over_grpc._service.workers
    message = messages.encode_request(InferRequest({"input": X}), "bulk")
    with grpc.insecure_channel(over_grpc.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with Held(workers):
            call = stub.ModelInfer.future(message)
            wait_for_waiting(workers, client, 1)
            call.cancel()
            for _ in range(20_000):
                if not over_grpc._service._calls:
                    break
                client.get("/v2/health/live")
        workers._best_effort.submit(int).result(60)  # behind it
    client.connection.close()
    assert runtime.stats()["models"]["bulk"] == before


def test_what_a_thread_did_for_nobody_is_undone():
    begun, go_on, undone = threading.Event(), threading.Event(), Future()

    def work() -> str:
        begun.set()
        assert go_on.wait(60)
        return "done"

    async def give_up(workers: Workers) -> None:
        task = asyncio.create_task(workers.run(False, work, undone.set_result))
        await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    workers = Workers("test")
    asyncio.run(give_up(workers))
    assert undone.result(60) == "done"
    workers.close()
