"""What waits for one model, seen from both doors: who is refused at once, and who goes first."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import Future
from typing import NamedTuple

import grpc
import numpy as np
import pytest
from harness import ONE, Client, Gate, tensor, wait_for_queue
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2_grpc

from missile_jax import Runtime
from missile_jax.options import GrpcOptions, HttpOptions
from missile_jax.server.codec import InferRequest
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.grpc.messages import decode_response, encode_request
from missile_jax.server.grpc.server import GrpcServer
from missile_jax.server.serve import HttpServer

INFER = "/v2/models/gate/infer"
# So many wait, each for a run that took so long when the model was loaded.
WAITING, RUN_S = 200, 0.05
# So much less that a busy machine does not come too late to be refused.
DEADLINE_S = 4.0


class Doors(NamedTuple):
    runtime: Runtime
    http: HttpServer
    stub: service_pb2_grpc.GRPCInferenceServiceStub


@pytest.fixture(scope="module")
def doors(gate: Gate, tmp_path_factory) -> Iterator[Doors]:
    with Runtime(cache_dir=tmp_path_factory.mktemp("cache"), policy=ONE) as runtime:
        gate.takes_s = RUN_S
        runtime.load(gate.model("gate", priority="latency", queue_limit=2 * WAITING))
        gate.takes_s = 0
        dataplane = Dataplane(runtime)
        with (
            HttpServer(dataplane, HttpOptions(port=0)) as http,
            GrpcServer(dataplane, GrpcOptions(port=0)) as rpc,
            grpc.insecure_channel(rpc.url) as channel,
        ):
            yield Doors(runtime, http, service_pb2_grpc.GRPCInferenceServiceStub(channel))


def message(value: float, **fields):
    return encode_request(
        InferRequest({"input": np.full((1, 1), value, np.float32)}, **fields), "gate"
    )


def counted(client: Client) -> dict[str, float]:
    """What `/metrics` says of requests that were overloaded, and of answers by status."""
    _, _, body = client.ask("GET", "/metrics")
    found = dict.fromkeys(("overloaded", "429", "RESOURCE_EXHAUSTED"), 0.0)
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            if sample.name in ("missile_requests_total", "missile_server_requests_total"):
                key = sample.labels.get("outcome") or sample.labels["code"]
                found[key] = found.get(key, 0) + sample.value
    return found


@pytest.fixture
def crowded(doors, gate) -> Iterator[Doors]:
    """One request runs until the test is over, and the others wait."""
    one = np.ones((1, 1), np.float32)
    gate.shut()
    futures: list[Future] = [doors.runtime.submit("gate", one)]
    gate.wait_entered()
    futures += [doors.runtime.submit("gate", one) for _ in range(WAITING)]
    yield doors
    gate.open()
    for future in futures:
        assert future.result(60) == 2


def work_s(text: str) -> float:
    """What a refusal says waits ahead."""
    found = re.search(r"([\d.]+) ms of work", text)
    assert found is not None, text
    return float(found[1]) / 1000


def test_a_timeout_that_cannot_be_met_is_refused_at_once_over_http(crowded, connect):
    client = connect(crowded.http)
    before = counted(client)
    body = tensor(1, parameters={"timeout": round(DEADLINE_S * 1e6)})
    status, headers, answer = client.ask("POST", INFER, body)
    text = json.loads(answer)["error"]
    assert status == 429, text
    assert f"{DEADLINE_S * 1e3:.1f} ms" in text
    assert work_s(text) >= WAITING * RUN_S
    seconds = int(headers["retry-after"])
    assert seconds >= 6
    assert seconds - 1.001 <= work_s(text) - DEADLINE_S <= seconds + 0.001
    after = counted(client)
    assert after["overloaded"] == before["overloaded"] + 1
    assert after["429"] == before["429"] + 1


def test_a_deadline_that_cannot_be_met_is_refused_at_once_over_grpc(crowded, connect):
    client = connect(crowded.http)
    before = counted(client)
    for message_, timeout_s in (
        (message(1), DEADLINE_S),
        (message(1, timeout_us=round(DEADLINE_S * 1e6)), 60),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            crowded.stub.ModelInfer(message_, timeout=timeout_s)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert work_s(caught.value.details()) >= WAITING * RUN_S
    after = counted(client)
    assert after["overloaded"] == before["overloaded"] + 2
    assert after["RESOURCE_EXHAUSTED"] == before["RESOURCE_EXHAUSTED"] + 2


def test_who_has_the_time_is_let_in(crowded, connect, gate):
    client = connect(crowded.http)
    client.send("POST", INFER, tensor(4, parameters={"timeout": 3_600_000_000}))
    wait_for_queue(crowded.runtime, connect(crowded.http), WAITING + 1)
    gate.open()
    assert client.receive()[0] == 200


def test_priorities_order_what_waits_whichever_door_it_came_by(doors, connect, gate):
    watching = connect(doors.http)
    gate.shut()
    running = doors.stub.ModelInfer.future(message(99), timeout=60)
    gate.wait_entered()
    # (door, priority, value), as they come.
    sent = [
        ("http", 7, 1), ("grpc", "best_effort", 2), ("grpc", 2, 3), ("http", 2, 4), ("grpc", 0, 5),
        ("http", "best_effort", 6), ("http", 1, 7), ("grpc", 7, 8), ("http", None, 9),
    ]  # fmt: skip
    over_http, over_grpc = [], []
    for depth, (door, priority, value) in enumerate(sent, 1):
        if door == "http":
            client = connect(doors.http)
            given = {} if priority is None else {"parameters": {"priority": priority}}
            client.send("POST", INFER, tensor(value, **given))
            over_http.append((value, client))
        else:
            call = doors.stub.ModelInfer.future(message(value, priority=priority), timeout=60)
            over_grpc.append((value, call))
        wait_for_queue(doors.runtime, watching, depth)
    gate.ran.clear()
    gate.open()
    for value, client in over_http:
        status, _, body = client.receive()
        assert (status, json.loads(body)["outputs"][0]["data"]) == (200, [2 * value])
    for value, call in over_grpc:
        assert decode_response(call.result()).outputs["output"] == 2 * value
    assert decode_response(running.result()).outputs["output"] == 198
    assert gate.ran == [5, 7, 9, 3, 4, 1, 8, 2, 6]
