"""W3C trace context, and requests as spans of OpenTelemetry. (www.w3.org/TR/trace-context)"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any, NamedTuple

from missile_jax.engine.request import Phases
from missile_jax.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_LONGEST_STATE = 512
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span's place in its trace.

    trace_id, span_id: 32 and 16 hexadecimal digits, not all zero.
    sampled: whether whoever asked keeps the trace.
    state: of vendors, passed on as it is.
    """

    trace_id: str
    span_id: str
    sampled: bool = True
    state: str = ""

    @property
    def traceparent(self) -> str:
        """The header that says so."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"

    def child(self) -> TraceContext:
        """Of a new span in the same trace."""
        return replace(self, span_id=_span_id())


def trace_context(headers: Mapping[str, str]) -> TraceContext | None:
    """What ``traceparent`` and ``tracestate`` say; None where they say nothing, or nothing valid.

    headers: by lower-case name; a gRPC call's metadata will do.
    """
    found = _TRACEPARENT.fullmatch(headers.get("traceparent", "").strip())
    # Version 00 ends here; what a later one adds is for those who know it.
    if found is None or (found[0].startswith("00") and found[4]):
        return None
    state = headers.get("tracestate", "")
    if len(state) > _LONGEST_STATE:
        state = ""
    return TraceContext(found[1], found[2], bool(int(found[3], 16) & _SAMPLED), state)


def new_trace() -> TraceContext:
    """The root of a trace of its own."""
    return TraceContext(secrets.token_hex(16), _span_id())


class Span(NamedTuple):
    """One request of a trace: its own place, whom it was asked by, and when it began."""

    context: TraceContext
    parent: TraceContext | None
    start_ns: int


class Tracer:
    """Gives requests their spans.

    exporter: of the OpenTelemetry SDK, gets those that are sampled, in batches on a thread of its
        own; None for no one.
    """

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        self._processor = None if exporter is None else _batches(exporter)

    def begin(self, headers: Mapping[str, str]) -> Span:
        """A span for a request that came with `headers`, by lower-case name."""
        parent = trace_context(headers)
        context = new_trace() if parent is None else parent.child()
        return Span(context, parent, time.perf_counter_ns())

    def end(
        self, span: Span, attributes: Mapping[str, Any], phases: Phases | None, error: str = ""
    ) -> None:
        """The request is answered.

        attributes: what is known of it. phases: None if it did not succeed, `error` then says why.
        """
        if self._processor is None or not span.context.sampled:
            return
        for made in _spans(span, attributes, phases, error):
            self._processor.on_end(made)

    def close(self) -> None:
        """Sends what is left."""
        if self._processor is not None:
            self._processor.shutdown()


def otlp_exporter(url: str) -> SpanExporter:
    """One that sends to `url`. Raises ConfigError without missile-jax[otel]."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConfigError(f"trace.otlp needs missile-jax[otel]: {error}") from None
    return OTLPSpanExporter(endpoint=url)


def _batches(exporter: SpanExporter) -> Any:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return BatchSpanProcessor(exporter)


def _spans(
    span: Span, attributes: Mapping[str, Any], phases: Phases | None, error: str
) -> Iterator[Any]:
    """The request's own, then one for each phase that took any time, one after the other."""
    epoch_ns = time.time_ns() - time.perf_counter_ns()
    end_ns = time.perf_counter_ns()
    yield _span(
        "infer", span.context, span.parent, span.start_ns, end_ns, epoch_ns, attributes, error
    )
    if phases is None:
        return
    start_ns = phases.arrival_ns
    compute_ns = phases.ended_ns - phases.arrival_ns - phases.queue_ns - phases.swap_ns
    for name, took_ns in (
        ("queue", phases.queue_ns),
        ("swap", phases.swap_ns),
        ("compute", compute_ns),
    ):
        if took_ns > 0:
            part = span.context.child()
            own = {"missile.device_ns": phases.compute_ns} if name == "compute" else {}
            times = (start_ns, start_ns + took_ns, epoch_ns)
            yield _span(name, part, span.context, *times, own)
        start_ns += took_ns


def _span(
    name: str,
    context: TraceContext,
    parent: TraceContext | None,
    start_ns: int,
    end_ns: int,
    epoch_ns: int,
    attributes: Mapping[str, Any],
    error: str = "",
) -> Any:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanKind, Status, StatusCode

    return ReadableSpan(
        name,
        _otel(context),
        None if parent is None else _otel(parent),
        Resource.create(
            {"service.name": "missile-jax", "service.version": installed_version("missile-jax")}
        ),
        attributes,
        kind=SpanKind.SERVER if name == "infer" else SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, error) if error else Status(StatusCode.UNSET),
        start_time=start_ns + epoch_ns,
        end_time=end_ns + epoch_ns,
    )


def _otel(context: TraceContext) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags, TraceState

    return SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        is_remote=False,
        trace_flags=TraceFlags(int(context.sampled)),
        trace_state=TraceState.from_header([context.state]) if context.state else None,
    )


def _span_id() -> str:
    return secrets.token_hex(8)
