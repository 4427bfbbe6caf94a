"""Every route over a real connection, every status code, and what happens to those who leave."""

import asyncio
import json
import socket
import threading

import numpy as np
import pytest
from harness import ONE, Client, mlp, tensor, wait_for_queue
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from missile_jax import DeviceMemoryError, HostMemoryError, Runtime
from missile_jax.options import HttpOptions
from missile_jax.server.answer import failure
from missile_jax.server.codec import InferRequest, decode_response, encode_request
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.serve import HttpServer

X = np.arange(4, dtype=np.float32).reshape(1, 4)


def infer(client: Client, model: str, request: InferRequest, binary: bool = True):
    body, length = encode_request(request, binary=binary)
    headers = {} if length is None else {"Inference_Header_Content_Length": str(length)}
    status, got, answer = client.ask("POST", f"/v2/models/{model}/infer", body, **headers)
    assert status == 200, answer
    length = got.get("inference-header-content-length")
    return decode_response(answer, None if length is None else int(length))


@pytest.mark.smoke
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infer(client, binary_in, binary_out):
    request = InferRequest({"input": X}, id="request-7", binary=binary_out)
    response = infer(client, "mlp", request, binary_in)
    assert (response.model_name, response.model_version, response.id) == ("mlp", "1", "request-7")
    np.testing.assert_array_equal(response.outputs["output"], [[6, 6, 6]])


def test_infer_on_a_connection_that_is_kept(client):
    for rows in (1, 3, 4):
        response = infer(client, "mlp", InferRequest({"input": np.ones((rows, 4), np.float32)}))
        assert response.outputs["output"].shape == (rows, 3)


@pytest.mark.parametrize("binary", [True, False])
def test_outputs_are_those_asked_for_in_that_order(client, binary):
    inputs = {"x": np.ones((2, 2), np.float16), "ids": np.arange(6, dtype=np.int32).reshape(2, 3)}
    every = infer(client, "pair", InferRequest(inputs, binary=binary))
    assert list(every.outputs) == ["half", "positive", "total"]
    outputs = {"total": binary, "half": not binary}
    some = infer(client, "pair", InferRequest(inputs, outputs=outputs))
    assert list(some.outputs) == ["total", "half"]
    assert some.outputs["total"].tolist() == [[3], [12]]
    assert some.outputs["half"].dtype.name == "bfloat16"


@pytest.mark.parametrize("path", ["/v2/models/mlp/infer", "/v2/models/mlp/versions/1/infer"])
def test_json_needs_no_content_type(client, path):
    body, _ = encode_request(InferRequest({"input": X}), binary=False)
    assert client.ask("POST", path, body)[0] == 200


def test_server_routes(client):
    assert client.get("/v2")["name"] == "missile-jax"
    assert client.get("/v2/health/live") == {"live": True}
    assert client.get("/v2/health/ready") == {"ready": True}
    names = [model["name"] for model in client.get("/v2/models/stats")["model_stats"]]
    assert names == ["gate", "mlp", "pair"]
    status, _, body = client.ask("POST", "/v2/repository/index")
    assert status == 200
    assert json.loads(body)[0] == {"name": "gate", "version": "1", "state": "READY", "reason": ""}


@pytest.mark.parametrize("base", ["/v2/models/pair", "/v2/models/pair/versions/1"])
def test_model_routes(client, base):
    assert client.get(base) == {
        "name": "pair",
        "versions": ["1"],
        "platform": "missile_jax",
        "inputs": [
            {"name": "ids", "datatype": "INT32", "shape": [-1, 3]},
            {"name": "x", "datatype": "FP16", "shape": [-1, 2]},
        ],
        "outputs": [
            {"name": "half", "datatype": "BF16", "shape": [-1, 2]},
            {"name": "positive", "datatype": "BOOL", "shape": [-1, 1]},
            {"name": "total", "datatype": "INT32", "shape": [-1, 1]},
        ],
    }
    assert client.get(base + "/ready") == {"name": "pair", "ready": True}
    config = client.get(base + "/config")
    assert (config["name"], config["max_batch_size"]) == ("pair", 2)
    assert config["input"][0] == {"name": "ids", "data_type": "TYPE_INT32", "dims": [3]}
    (stats,) = client.get(base + "/stats")["model_stats"]
    assert stats["name"] == "pair"
    assert {"success", "fail", "queue", "cache_hit", "cache_miss"} <= set(stats["inference_stats"])


def test_statistics_count(client):
    def count():
        (stats,) = client.get("/v2/models/mlp/stats")["model_stats"]
        return stats["inference_count"], stats["inference_stats"]["success"]["count"]

    rows, requests = count()
    infer(client, "mlp", InferRequest({"input": np.ones((3, 4), np.float32)}))
    assert count() == (rows + 3, requests + 1)


@pytest.mark.parametrize("error", [DeviceMemoryError("3 of 4 GiB"), HostMemoryError("3 of 4 GiB")])
def test_errors_of_memory_tell_no_sizes(error):
    status, body, *_ = failure(error)
    assert status == 503
    assert b"memory" in body
    assert b"GiB" not in body


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("GET", "/v1/models", None, 404, "no route '/v1/models'; /v2/openapi.json"),
        ("GET", "/v2/models/nope", None, 404, "nope"),
        ("GET", "/v2/models/nope/ready", None, 404, "nope"),
        ("GET", "/v2/models/nope/stats", None, 404, "nope"),
        ("GET", "/v2/models/mlp/versions/2", None, 404, "version '2'"),
        ("POST", "/v2/models/nope/infer", tensor(1), 404, "nope"),
        ("POST", "/v2/models/mlp/versions/2/infer", tensor(1), 404, "version '2'"),
        ("POST", "/v2/models/%2e%2e/infer", tensor(1), 404, "'..'"),
        ("GET", "/v2/models/mlp/infer", None, 405, "POST"),
        ("DELETE", "/v2", None, 405, "Method Not Allowed"),
        ("POST", "/v2/models/mlp/infer", None, 400, "JSON"),
        ("POST", "/v2/models/mlp/infer", b"[]", 400, "JSON object"),
        ("POST", "/v2/models/gate/infer", tensor(1, outputs=[{"name": "no"}]), 400, "no output"),
        ("POST", "/v2/models/mlp/infer", tensor(1), 400, "shape"),
        ("POST", "/v2/models/pair/infer", tensor(1), 400, "ids"),
        ("POST", "/v2/models/gate/infer", tensor(1, parameters={"timeout": -1}), 400, "timeout"),
    ],
)
def test_errors_say_what_is_wrong(client, method, path, body, status, message):
    got, text = client.error(method, path, body)
    assert got == status
    assert message in text


def test_a_wrong_method_is_told_the_right_one(client):
    assert client.ask("GET", "/v2/models/mlp/infer")[1]["allow"] == "POST"


def test_rows_beyond_the_largest_bucket_are_refused(client):
    body, _ = encode_request(InferRequest({"input": np.ones((5, 4), np.float32)}), binary=False)
    assert client.error("POST", "/v2/models/mlp/infer", body)[0] == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Inference_Header_Content_Length": "-1"}, 400),
        ({"Inference_Header_Content_Length": "1e3"}, 400),
        ({"Inference_Header_Content_Length": "9" * 400}, 400),
        ({"Content_Encoding": "br"}, 415),
    ],
)
def test_headers_that_rule_a_request_out(client, headers, status):
    assert client.error("POST", "/v2/models/gate/infer", tensor(1), **headers)[0] == status


def test_a_body_over_the_limit_is_refused_by_its_length(client):
    assert client.error("POST", "/v2/models/mlp/infer", b" " * 100_001)[0] == 413
    assert client.get("/v2/health/live") == {"live": True}


def test_a_body_over_the_limit_is_refused_where_it_names_no_length(client):
    chunks = iter([b" " * 60_000, b" " * 60_000])
    client.connection.request("POST", "/v2/models/mlp/infer", chunks, encode_chunked=True)
    status, _, body = client.receive()
    assert status == 413
    assert b"100000" in body


def test_a_large_body_in_chunks_is_put_together(client):
    body, _ = encode_request(InferRequest({"input": X}), binary=False)
    chunks = [body, *[b" " * 20_000] * 4]
    client.connection.request("POST", "/v2/models/mlp/infer", iter(chunks), encode_chunked=True)
    assert client.receive()[0] == 200


def test_a_full_queue_says_come_again(runtime, server, connect, client, gate):
    gate.shut()
    running, waiting = connect(server), connect(server)
    running.send("POST", "/v2/models/gate/infer", tensor(1))
    gate.wait_entered()
    waiting.send("POST", "/v2/models/gate/infer", tensor(2))
    wait_for_queue(runtime, client, 1)
    status, headers, _ = client.ask("POST", "/v2/models/gate/infer", tensor(3))
    assert (status, headers["retry-after"]) == (429, "1")
    gate.open()
    assert running.receive()[0] == waiting.receive()[0] == 200


def test_a_deadline_that_passes_is_answered(server, connect, client, gate):
    gate.shut()
    running = connect(server)
    running.send("POST", "/v2/models/gate/infer", tensor(1))
    gate.wait_entered()
    body = tensor(1, parameters={"timeout": 1000})
    status, text = client.error("POST", "/v2/models/gate/infer", body)
    assert status == 504
    assert "1.0 ms" in text
    gate.open()
    assert running.receive()[0] == 200


def test_a_model_that_fails_tells_nothing_of_itself_and_hurts_no_other(client, caplog):
    status, text = client.error("POST", "/v2/models/gate/infer", tensor(-1))
    assert status == 500
    assert text == "model 'gate' failed; the server's log says why"
    assert "a secret of" in caplog.text
    response = infer(client, "mlp", InferRequest({"input": X}))
    np.testing.assert_array_equal(response.outputs["output"], [[6, 6, 6]])


def test_a_client_that_leaves_cancels_its_request(runtime, server, connect, client, gate):
    gate.shut()
    before = runtime.stats()["models"]["gate"]["cancel_count"]
    running, leaving = connect(server), connect(server)
    running.send("POST", "/v2/models/gate/infer", tensor(1))
    gate.wait_entered()
    leaving.send("POST", "/v2/models/gate/infer", tensor(2))
    wait_for_queue(runtime, client, 1)
    leaving.connection.close()
    wait_for_queue(runtime, client, 0)
    assert runtime.stats()["models"]["gate"]["cancel_count"] == before + 1
    gate.open()
    assert running.receive()[0] == 200


def test_a_client_that_leaves_in_the_middle_of_its_body_is_forgotten(server, client):
    with socket.create_connection((server.host, server.port)) as connection:
        connection.sendall(b"POST /v2/models/mlp/infer HTTP/1.1\r\ncontent-length: 9\r\n\r\n{")
    assert client.get("/v2/health/live") == {"live": True}


def test_a_closed_runtime_is_not_ready(tmp_path, connect):
    with (
        Runtime(cache_dir=tmp_path, policy=ONE) as runtime,
        HttpServer(Dataplane(runtime), HttpOptions(port=0)) as server,
    ):
        runtime.load(mlp())
        runtime.close()
        client = connect(server)
        body, _ = encode_request(InferRequest({"input": X}), binary=False)
        assert client.error("GET", "/v2/health/ready")[0] == 503
        assert client.error("POST", "/v2/models/mlp/infer", body)[0] == 503
        assert client.get("/v2/health/live") == {"live": True}


def test_connections_do_not_wait_for_each_other(server, connect, client, gate):
    gate.shut()
    slow = connect(server)
    slow.send("POST", "/v2/models/gate/infer", tensor(1))
    gate.wait_entered()
    answers = []

    def ask() -> None:
        answers.append(connect(server).get("/v2/models/pair")["name"])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["pair"] * 8
    gate.open()
    assert slow.receive()[0] == 200


FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(st.binary(max_size=300), st.none() | st.integers(-3, 400))
def test_no_body_breaks_the_server(client, body, length):
    headers = {} if length is None else {"Inference_Header_Content_Length": str(length)}
    assert client.error("POST", "/v2/models/mlp/infer", body, **headers)[0] == 400


@FUZZ
@given(st.data())
def test_no_change_of_a_request_breaks_the_server(client, data):
    body, length = encode_request(InferRequest({"input": X}, binary=True))
    changed = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.just(len(body)) | st.integers(0, len(body)))
    status, _, answer = client.ask(
        "POST",
        "/v2/models/mlp/infer",
        bytes(changed[:cut]),
        Inference_Header_Content_Length=str(length),
    )
    assert status in (200, 400), answer


def test_an_inference_begins_without_a_task_and_its_answer_is_one_write(server, monkeypatch, gate):
    tasks, sent = [], []
    submit = Dataplane.submit

    def noted(*args, **options):
        tasks.append(asyncio.current_task())
        return submit(*args, **options)

    async def send(self, message):
        sent.append(message)

    monkeypatch.setattr(Dataplane, "submit", noted)
    monkeypatch.setattr(RequestResponseCycle, "send", send)
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        body = tensor(7)
        head = b"POST /v2/models/gate/infer HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body)
        connection.sendall(head + body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert tasks == [None]
    assert sent == []
