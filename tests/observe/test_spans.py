"""Traces: ids in the answer, spans at an OTLP receiver."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import grpc
import pytest
from harness import Client
from observed import X
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from tritonclient.grpc import service_pb2_grpc

from missile_jax.observe.trace import trace_context
from missile_jax.options import GrpcOptions, HttpOptions, LogOptions, TraceOptions
from missile_jax.server.codec import InferRequest, encode_request
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.grpc import messages
from missile_jax.server.grpc.server import GrpcServer
from missile_jax.server.serve import HttpServer
from missile_jax.server.watch import Watch

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector():
    """Its URL, and the spans it gets."""
    spans, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = ExportTraceServiceRequest()
            request.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Not to the tests' output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
        server.shutdown()
        thread.join()


def infer(client, model="quick", **headers):
    body, _ = encode_request(InferRequest({"input": X}, id="mine"), binary=False)
    return client.ask("POST", f"/v2/models/{model}/infer", body, **headers)


def test_the_answer_carries_on_the_trace(managed, serve):
    client = serve(managed, trace=TraceOptions(context=True))
    status, headers, _ = infer(client, traceparent=f"00-{TRACE}-{PARENT}-01")
    assert status == 200
    context = trace_context(headers)
    assert context is not None
    assert context.trace_id == TRACE
    assert context.span_id != PARENT
    assert trace_context(infer(client)[1]) is not None
    assert trace_context(infer(client, "nope")[1]) is not None


def test_without_tracing_there_is_nothing(managed, serve):
    _, headers, _ = infer(serve(managed), traceparent=f"00-{TRACE}-{PARENT}-01")
    assert "traceparent" not in headers


def test_spans_arrive_at_a_collector(managed, collector):
    url, spans = collector
    managed.evict("other")
    watch = Watch.of(managed, TraceOptions(otlp=url), LogOptions())
    with HttpServer(Dataplane(managed), HttpOptions(port=0), watch=watch) as server:
        client = Client(server)
        _, headers, _ = infer(client, "other", traceparent=f"00-{TRACE}-{PARENT}-01")
        infer(client, "other", traceparent=f"00-{TRACE[::-1]}-{PARENT}-00")
        assert infer(client, "nope", traceparent=f"00-{'a' * 32}-{PARENT}-01")[0] == 404
        client.connection.close()
    watch.close()
    by_trace = {}
    for span in spans:
        by_trace.setdefault(span.trace_id.hex(), []).append(span)
    # The second was not sampled.
    assert set(by_trace) == {TRACE, "a" * 32}
    own = {span.name: span for span in by_trace[TRACE]}
    assert set(own) == {"infer", "queue", "swap", "compute"}
    root = own.pop("infer")
    answered = trace_context(headers)
    assert answered is not None
    assert (root.span_id.hex(), root.parent_span_id.hex()) == (answered.span_id, PARENT)
    attributes = {a.key: a.value.string_value or a.value.int_value for a in root.attributes}
    assert attributes == {
        "missile.request_id": "mine",
        "missile.transport": "http",
        "missile.model": "other",
        "missile.tenant": "b",
        "missile.outcome": "success",
        "http.response.status_code": 200,
    }
    order = [own[name] for name in ("queue", "swap", "compute")]
    for span in order:
        assert span.parent_span_id == root.span_id
        assert root.start_time_unix_nano <= span.start_time_unix_nano < span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
    for one, following in pairwise(order):
        assert one.end_time_unix_nano == following.start_time_unix_nano
    (failed,) = by_trace["a" * 32]
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert "nope" in failed.status.message


def test_spans_of_grpc_are_those_of_http(managed, collector):
    url, spans = collector
    watch = Watch.of(managed, TraceOptions(otlp=url), LogOptions())
    parent = [("traceparent", f"00-{TRACE}-{PARENT}-01")]
    with (
        GrpcServer(Dataplane(managed), GrpcOptions(port=0), watch=watch) as server,
        grpc.insecure_channel(server.url) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        message = messages.encode_request(InferRequest({"input": X}, id="mine"), "quick")
        _, call = stub.ModelInfer.with_call(message, metadata=parent)
        assert len(list(stub.ModelStreamInfer(iter([message, message]), metadata=parent))) == 2
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(messages.encode_request(InferRequest({"input": X}), "nope"))
    watch.close()
    roots = {span.span_id.hex(): span for span in spans if span.name == "infer"}
    answered = trace_context(dict(call.trailing_metadata()))
    assert answered is not None
    own = roots[answered.span_id]
    (failed,) = [root for root in roots.values() if root.trace_id.hex() != TRACE]
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert len(roots) == 4
    assert {r.parent_span_id.hex() for r in roots.values() if r is not failed} == {PARENT}
    attributes = {a.key: a.value.string_value for a in own.attributes}
    assert attributes == {
        "missile.request_id": "mine",
        "missile.transport": "grpc",
        "missile.model": "quick",
        "missile.tenant": "a",
        "missile.outcome": "success",
        "rpc.response.status_code": "OK",
        "rpc.system.name": "grpc",
    }
    assert "compute" in {s.name for s in spans if s.parent_span_id == own.span_id}


def test_an_exporter_that_is_not_installed_is_named():
    code = """
import sys
sys.modules["opentelemetry.exporter.otlp.proto.http.trace_exporter"] = None
from missile_jax.errors import ConfigError
from missile_jax.observe.trace import otlp_exporter
try:
    otlp_exporter("http://127.0.0.1:4318")
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "missile-jax[otel]" in done.stdout
