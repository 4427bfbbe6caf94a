"""What all requests hold together has a limit, over both doors, and is given back."""

import gzip
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grpc
import numpy as np
import pytest
from harness import Client, tensor
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from missile_jax.errors import ServerBusyError
from missile_jax.options import GrpcOptions, HttpOptions, LimitOptions
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.grpc.server import GrpcServer
from missile_jax.server.inflight import SMALL_BYTES, Claim, Inflight, ReleasedError
from missile_jax.server.serve import HttpServer

MAX_BYTES = 4 * SMALL_BYTES
BODY = tensor(1) + b" " * 3 * SMALL_BYTES
INFER = "/v2/models/gate/infer"


def test_what_is_small_is_let_in_and_does_not_count():
    inflight = Inflight(100_000)
    with inflight.claim(100_000), inflight.claim(SMALL_BYTES) as small:
        assert inflight.held_bytes == 100_000
        with pytest.raises(ServerBusyError, match="hold 100000 bytes of at most 100000"):
            small.add(1)
    assert inflight.held_bytes == 0


def test_who_is_alone_is_let_in_whatever_the_size():
    inflight = Inflight(1)
    with inflight.claim(100_000) as claim:
        claim.add(100_000)
        assert inflight.held_bytes == 200_000
        with pytest.raises(ServerBusyError):
            inflight.claim(100_000)
    with inflight.claim(100_000):
        assert inflight.held_bytes == 100_000


def test_what_was_released_takes_nothing_any_more():
    inflight = Inflight(100_000)
    claim = inflight.claim(90_000)
    claim.release()
    claim.release()
    with pytest.raises(ReleasedError):
        claim.add(1)
    assert inflight.held_bytes == 0


def test_claims_of_many_threads_add_up_to_nothing():
    inflight = Inflight(10**9)

    def hold(_: int) -> None:
        for size_bytes in range(SMALL_BYTES, SMALL_BYTES + 200):
            with inflight.claim(size_bytes) as claim:
                claim.add(size_bytes)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(hold, range(8)))
    assert inflight.held_bytes == 0


class Doors(NamedTuple):
    inflight: Inflight
    http: HttpServer
    grpc: GrpcServer


@pytest.fixture(scope="module")
def doors(runtime):
    dataplane = Dataplane(runtime, limits=LimitOptions(max_inflight_bytes=MAX_BYTES))
    with (
        HttpServer(dataplane, HttpOptions(port=0)) as http_server,
        GrpcServer(dataplane, GrpcOptions(port=0)) as grpc_server,
    ):
        yield Doors(dataplane.inflight, http_server, grpc_server)
    assert dataplane.inflight.held_bytes == 0


def wait_held(doors: Doors, client: Client, at_least: int, at_most: int = MAX_BYTES) -> None:
    """Each look is a round trip to the server."""
    for _ in range(20_000):
        if at_least <= doors.inflight.held_bytes <= at_most:
            return
        client.get("/v2/health/live")
    pytest.fail(f"{doors.inflight.held_bytes} bytes are held")


def test_a_body_that_finds_no_room_is_refused_and_others_go_on(doors, connect):
    slow, client = connect(doors.http), connect(doors.http)
    slow.connection.putrequest("POST", INFER)
    slow.connection.putheader("Content-Length", str(len(BODY)))
    slow.connection.endheaders(BODY[:-1])
    wait_held(doors, client, 2 * SMALL_BYTES)
    for body, headers in ((BODY, {}), (gzip.compress(BODY), {"Content_Encoding": "gzip"})):
        status, got, answer = connect(doors.http).ask("POST", INFER, body, **headers)
        assert (status, got["retry-after"]) == (503, "1")
        assert "leaves no room for this one" in json.loads(answer)["error"]
    large = pb.ModelInferRequest(model_name="gate", raw_input_contents=[bytes(3 * SMALL_BYTES)])
    with grpc.insecure_channel(doors.grpc.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(large, timeout=60)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "leaves no room for this one" in str(caught.value.details())
        (streamed,) = stub.ModelStreamInfer(iter([large]), timeout=60)
        assert "leaves no room for this one" in streamed.error_message
    assert client.ask("POST", INFER, tensor(2))[0] == 200
    slow.connection.send(BODY[-1:])
    assert slow.receive()[0] == 200
    wait_held(doors, client, 0, 0)
    assert client.ask("POST", INFER, BODY)[0] == 200


def test_what_is_held_is_held_until_the_answer_and_given_back_by_who_leaves(doors, connect, gate):
    gate.shut()
    running, leaving, client = (connect(doors.http) for _ in range(3))
    running.send("POST", INFER, BODY)
    gate.wait_entered()
    wait_held(doors, client, 3 * SMALL_BYTES)
    gate.open()
    assert running.receive()[0] == 200
    wait_held(doors, client, 0, 0)
    leaving.connection.putrequest("POST", INFER)
    leaving.connection.putheader("Content-Length", str(len(BODY)))
    leaving.connection.endheaders(BODY[:-1])
    wait_held(doors, client, 2 * SMALL_BYTES)
    leaving.connection.close()
    wait_held(doors, client, 0, 0)


def test_bodies_that_are_refused_give_back_what_they_held(doors, connect):
    client = connect(doors.http)
    for body, headers in (
        (b"{" + BODY, {}),
        (b"no gzip" + BODY, {"Content_Encoding": "gzip"}),
        (gzip.compress(b"{" + BODY), {"Content_Encoding": "gzip"}),
    ):
        assert client.ask("POST", INFER, body, **headers)[0] == 400
        wait_held(doors, client, 0, 0)


class Step:
    """Holds up the thread that inflates, at each piece; `claims` of it are noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.claims: list[Claim] = []
        self.came = threading.Semaphore(0)
        self.go_on = threading.Event()
        real = Claim.add

        def add(claim: Claim, size_bytes: int) -> None:
            if threading.current_thread().name.startswith("missile-http-large"):
                self.claims.append(claim)
                self.came.release()
                assert self.go_on.wait(60)
            real(claim, size_bytes)

        monkeypatch.setattr(Claim, "add", add)


def compressed() -> bytes:
    """So little compressible that it takes many steps to inflate."""
    noise = np.random.default_rng(0).integers(0, 256, 3 * SMALL_BYTES, np.uint8)
    return gzip.compress(noise.tobytes())


def test_a_client_that_leaves_ends_the_work_on_its_compressed_body(doors, connect, monkeypatch):
    step = Step(monkeypatch)
    leaving, client = connect(doors.http), connect(doors.http)
    leaving.send("POST", INFER, compressed(), Content_Encoding="gzip")
    assert step.came.acquire(timeout=60)
    leaving.connection.close()
    for _ in range(20_000):
        if step.claims[0].released:
            break
        client.get("/v2/health/live")
    step.go_on.set()
    body = gzip.compress(tensor(3))
    assert client.ask("POST", INFER, body, Content_Encoding="gzip")[0] == 200
    assert step.claims.count(step.claims[0]) == 1  # it went no further
    wait_held(doors, client, 0, 0)


def test_a_drain_that_ends_while_a_body_is_inflated_ends_that(runtime, connect, monkeypatch):
    step = Step(monkeypatch)
    dataplane = Dataplane(runtime)
    server = HttpServer(dataplane, HttpOptions(port=0, drain_s=1)).start()
    client = connect(server)
    client.send("POST", INFER, compressed(), Content_Encoding="gzip")
    assert step.came.acquire(timeout=60)
    closing = threading.Thread(target=server.close)
    closing.start()
    status, _, body = client.receive()
    assert (status, "the server stopped" in json.loads(body)["error"]) == (503, True)
    step.go_on.set()
    closing.join()
    assert len(step.claims) == 1
    assert dataplane.inflight.held_bytes == 0
