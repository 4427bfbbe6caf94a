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
    drain_s: seconds that requests in flight have to end once the server is closed.
    """

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    max_body_bytes: Annotated[int, Field(ge=1)] = 256 * 2**20
    max_header_bytes: Annotated[int, Field(ge=1024)] = 32 * 2**10
    drain_s: Positive = 30.0


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
