"""Traces over HTTP: ids in the answer, spans at an OTLP receiver."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
from harness import Client
from observed import X
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from missile_jax.observe.trace import trace_context
from missile_jax.options import HttpOptions, TraceOptions
from missile_jax.server.codec import InferRequest, encode_request
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.serve import HttpServer

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
    with HttpServer(
        Dataplane(managed), HttpOptions(port=0), trace=TraceOptions(otlp=url)
    ) as server:
        client = Client(server)
        _, headers, _ = infer(client, "other", traceparent=f"00-{TRACE}-{PARENT}-01")
        infer(client, "other", traceparent=f"00-{TRACE[::-1]}-{PARENT}-00")
        assert infer(client, "nope", traceparent=f"00-{'a' * 32}-{PARENT}-01")[0] == 404
        client.connection.close()
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
