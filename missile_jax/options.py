"""What a server can be told, one frozen model a subject: for `serve` and for configuration files.

A value that is not allowed raises pydantic.ValidationError, a ValueError that names it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Options(BaseModel):
    """Strict, and an error for a key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class HttpOptions(Options):
    """Where and how HTTP is served.

    host, port: where to listen. Port 0 takes a free one. Only this machine reaches the default
        host; there is no access control, so think before you change it.
    max_body_bytes, max_header_bytes: a larger request is answered with 413 or 431.
    drain_delay_s: seconds for which a server that is told to end still takes connections, but is
        not ready any more, so that others stop sending.
    drain_s: seconds that requests in flight have to end after that.
    """

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    max_body_bytes: Annotated[int, Field(ge=1)] = 256 * 2**20
    max_header_bytes: Annotated[int, Field(ge=1024)] = 32 * 2**10
    drain_delay_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    drain_s: Positive = 30.0


class GrpcOptions(Options):
    """Whether, where and how gRPC is served.

    host, port: where to listen. Without a port there is no gRPC; port 0 takes a free one. Only this
        machine reaches the default host; there is no access control, so think before you change it.
    max_message_bytes: a larger request is refused with RESOURCE_EXHAUSTED.
    max_stream_requests: requests of one stream that may be under way; more wait at the client.
    drain_s: seconds that requests in flight have to end once the server is closed.
    """

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    max_message_bytes: Annotated[int, Field(ge=1, lt=2**31)] = 256 * 2**20
    max_stream_requests: Annotated[int, Field(ge=1)] = 128
    drain_s: Positive = 30.0


class SharedMemoryOptions(Options):
    """Tensors in shared memory instead of in messages.

    system: whether clients may name POSIX shared memory, by gRPC and HTTP alike. Any client then
        has the server read and write any shared memory object of the server's user.
    max_regions: how many may be registered at a time.
    max_request_bytes: how much the inputs of one request may have in shared memory.
    """

    system: bool = False
    max_regions: Annotated[int, Field(ge=1)] = 256
    # One read gives no more than this.
    max_request_bytes: Annotated[int, Field(ge=1, le=0x7FFFF000)] = 256 * 2**20


class ObserveOptions(Options):
    """What the HTTP port shows of the server itself; see docs/metrics.md.

    metrics: for Prometheus, at /metrics.
    page: a page for people, at /.
    timeline_s: the longest timeline that may be asked for, in seconds.
    """

    metrics: bool = True
    page: bool = False
    timeline_s: Annotated[float, Field(gt=0, le=600)] = 60.0


class TraceOptions(Options):
    """Distributed tracing by W3C trace context.

    context: take up a request's ``traceparent``, and answer with one.
    otlp: URL of an OpenTelemetry collector that spans are sent to over OTLP/HTTP, such as
        ``"http://127.0.0.1:4318/v1/traces"``; it implies `context`, and needs missile-jax[otel].
    """

    context: bool = False
    otlp: Annotated[str, Field(pattern=r"^https?://")] | None = None


class LogOptions(Options):
    """What the server writes to standard error.

    format: ``"text"``, or ``"json"`` for one object a line.
    level: the least severe that is written.
    access: a line for each inference.
    """

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"
    access: bool = False


class ServerOptions(Options):
    """All that a server can be told, a section a subject."""

    http: HttpOptions = HttpOptions()
    grpc: GrpcOptions = GrpcOptions()
    shared_memory: SharedMemoryOptions = SharedMemoryOptions()
    observe: ObserveOptions = ObserveOptions()
    trace: TraceOptions = TraceOptions()
    log: LogOptions = LogOptions()
