"""Logs in both forms, and an error that is found in them by its id."""

import json
import logging
import sys

import grpc
import numpy as np
import pytest
from harness import Gate, tensor
from observed import X
from tritonclient.grpc import service_pb2_grpc

from missile_jax import Runtime
from missile_jax.observe.logs import configure_logs
from missile_jax.options import GrpcOptions, LogOptions, TraceOptions
from missile_jax.server.codec import InferRequest, encode_request
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.grpc import messages
from missile_jax.server.grpc.server import GrpcServer
from missile_jax.server.watch import Watch


@pytest.fixture
def logs(capsys):
    """Sets logs up; call it to read what was written."""
    logger = logging.getLogger("missile_jax")
    before = logger.handlers, logger.level, logger.propagate

    def start(options):
        configure_logs(options)
        return lambda: capsys.readouterr().err

    yield start
    logger.handlers, logger.level, logger.propagate = before


def events(text):
    return [json.loads(line) for line in text.splitlines()]


def test_json_is_one_object_a_line(logs):
    read = logs(LogOptions(format="json"))
    log = logging.getLogger("missile_jax.somewhere")
    log.debug("not this")
    log.warning("two\nlines %d", 7, extra={"model": "m", "tenant": None})
    try:
        raise ValueError("why\nnot")
    except ValueError:
        log.exception("failed")
    first, second = events(read())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "warning",
        "logger": "missile_jax.somewhere",
        "message": "two\nlines 7",
        "model": "m",
    }
    assert second["error"].startswith("Traceback")
    assert second["error"].endswith("ValueError: why\nnot")


def test_what_json_has_no_word_for_is_still_written(logs):
    read = logs(LogOptions(format="json"))
    logging.getLogger("missile_jax").warning("x", extra={"what": {1: sys}, "text": "\udc80"})
    (event,) = events(read())
    assert event["message"] == "x"
    assert "module" in event["what"]["1"]


def test_text_is_one_line_whatever_is_in_it(logs):
    read = logs(LogOptions(level="info"))
    logging.getLogger("missile_jax").info("infer", extra={"model": "a\nb", "total_ms": 1.5})
    line = read()
    assert line.endswith("INFO infer model='a\\nb' total_ms=1.5\n")


def test_the_level_is_kept(logs):
    read = logs(LogOptions(level="error"))
    logging.getLogger("missile_jax.x").warning("not this")
    assert read() == ""


def test_the_access_log_has_a_line_for_each_inference(managed, serve, logs):
    read = logs(LogOptions(format="json"))
    client = serve(managed, log=LogOptions(access=True))
    body, _ = encode_request(InferRequest({"input": X}, id="by-protocol"), binary=False)
    path = "/v2/models/quick/infer"
    assert client.ask("POST", path, body)[1]["x-request-id"] == "by-protocol"
    assert client.ask("POST", path, body, x_request_id="mine")[1]["x-request-id"] == "mine"
    made = client.ask("POST", "/v2/models/nope/infer", body, x_request_id="not one")[1]
    good, named, bad = events(read())
    assert (good["request_id"], good["model"], good["tenant"]) == ("by-protocol", "quick", "a")
    assert (good["outcome"], good["status"], good["logger"]) == (
        "success",
        200,
        "missile_jax.access",
    )
    assert good["total_ms"] >= good["queue_ms"] + good["swap_ms"] + good["compute_ms"]
    assert named["request_id"] == "mine"
    assert (bad["outcome"], bad["status"], bad["tenant"]) == ("error", 404, "")
    assert bad["request_id"] == made["x-request-id"] != "not one"


def test_inferences_over_grpc_are_logged_alike(managed, logs):
    read = logs(LogOptions(format="json"))
    watch = Watch.of(managed, TraceOptions(), LogOptions(access=True))
    with (
        GrpcServer(Dataplane(managed), GrpcOptions(port=0), watch=watch) as server,
        grpc.insecure_channel(server.url) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        fine = messages.encode_request(InferRequest({"input": X}, id="by-protocol"), "quick")
        wrong = messages.encode_request(InferRequest({"input": X}), "nope")
        _, call = stub.ModelInfer.with_call(fine)
        assert dict(call.trailing_metadata())["x-request-id"] == "by-protocol"
        _, call = stub.ModelInfer.with_call(fine, metadata=[("x-request-id", "mine")])
        assert dict(call.trailing_metadata())["x-request-id"] == "mine"
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(wrong)
        made = dict(caught.value.trailing_metadata())["x-request-id"]
        stream = stub.ModelStreamInfer(iter([fine, wrong]), metadata=[("x-request-id", "stream")])
        assert len(list(stream)) == 2
    good, named, bad, *streamed = events(read())
    assert (good["request_id"], good["transport"], good["model"]) == (
        "by-protocol",
        "grpc",
        "quick",
    )
    assert (good["tenant"], good["outcome"], good["status"]) == ("a", "success", "OK")
    assert good["total_ms"] >= good["queue_ms"] + good["swap_ms"] + good["compute_ms"]
    assert named["request_id"] == "mine"
    assert (bad["request_id"], bad["outcome"], bad["status"]) == (made, "error", "NOT_FOUND")
    by_status = {event["status"]: event["request_id"] for event in streamed}
    assert set(by_status) == {"OK", "NOT_FOUND"}
    assert by_status["OK"] == "by-protocol"
    assert by_status["NOT_FOUND"] != "stream"


def test_there_is_no_access_log_unless_asked_for(managed, serve, logs):
    read = logs(LogOptions(format="json"))
    body, _ = encode_request(InferRequest({"input": X}), binary=False)
    status, headers, _ = serve(managed).ask("POST", "/v2/models/quick/infer", body)
    assert status == 200
    assert "x-request-id" not in headers
    assert read() == ""


def test_an_error_over_grpc_is_found_by_its_id(tmp_path, logs):
    read = logs(LogOptions(format="json"))
    with Runtime(cache_dir=tmp_path) as runtime:
        runtime.load(Gate().model("gate"))
        with (
            GrpcServer(Dataplane(runtime), GrpcOptions(port=0)) as server,
            grpc.insecure_channel(server.url) as channel,
        ):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            negative = InferRequest({"input": np.float32([[-1]])})
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelInfer(messages.encode_request(negative, "gate"))
    (event,) = [event for event in events(read()) if "request_id" in event]
    assert event["request_id"] == dict(caught.value.trailing_metadata())["x-request-id"]
    assert "a secret of" in event["error"]


@pytest.mark.parametrize("given", [{"x_request_id": "mine"}, {}])
def test_an_error_is_found_by_its_id(tmp_path, serve, logs, given):
    read = logs(LogOptions(format="json"))
    with Runtime(cache_dir=tmp_path) as runtime:
        runtime.load(Gate().model("gate"))
        status, headers, body = serve(runtime).ask(
            "POST", "/v2/models/gate/infer", tensor(-1), **given
        )
    assert status == 500
    assert b"a secret" not in body
    (event,) = [event for event in events(read()) if "request_id" in event]
    assert event["request_id"] == headers["x-request-id"]
    assert event["request_id"] == given.get("x_request_id", event["request_id"])
    assert "a secret of" in event["error"]
