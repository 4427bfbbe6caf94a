"""What a server can be told, one frozen model a subject: for `serve` and for configuration files.

A value that is not allowed raises pydantic.ValidationError, a ValueError that names it.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Options(BaseModel):
    """Strict, and an error for a key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class HttpOptions(Options):
    """Where and how HTTP is served.

    host, port: where to listen. Port 0 takes a free one. Only this machine reaches the default
        host; see `AuthOptions` before you change it.
    max_body_bytes, max_header_bytes: a larger request is answered with 413 or 431. A compressed
        body may hold as much.
    max_connections: one more is answered with 503 and closed.
    head_timeout_s, body_timeout_s: seconds that the head of a request has to arrive, and then its
        body; a later one is answered with 408. A new connection that is silent is closed.
        A TLS handshake has as long as a head.
    write_timeout_s: seconds that a client has to take an answer which does not fit into the buffers
        between; then its connection is reset.
    drain_delay_s: seconds for which a server that is told to end still takes connections, but is
        not ready any more, so that others stop sending.
    drain_s: seconds that requests in flight have to end after that.
    """

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    max_body_bytes: Annotated[int, Field(ge=1)] = 256 * 2**20
    max_header_bytes: Annotated[int, Field(ge=1024)] = 32 * 2**10
    max_connections: Annotated[int, Field(ge=1)] = 1000
    head_timeout_s: Positive = 10.0
    body_timeout_s: Positive = 60.0
    write_timeout_s: Positive = 60.0
    drain_delay_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    drain_s: Positive = 30.0


class GrpcOptions(Options):
    """Whether, where and how gRPC is served.

    host, port: where to listen. Without a port there is no gRPC; port 0 takes a free one. Only this
        machine reaches the default host; see `AuthOptions` before you change it.
    max_message_bytes: a larger request is refused with RESOURCE_EXHAUSTED, also where it is larger
        only once it is decompressed.
    max_metadata_bytes: a call with more metadata is refused with RESOURCE_EXHAUSTED.
    max_connections: one more is closed.
    max_calls: calls and streams of all connections at a time, and as many again that ask for health
        or reflection; one more is refused with RESOURCE_EXHAUSTED.
    max_connection_calls: calls and streams of one connection at a time; more wait at the client.
    max_stream_requests: requests of one stream that may be under way; more wait at the client.
    handshake_timeout_s: seconds that a new connection has until it speaks gRPC.
    idle_timeout_s: seconds after which a connection without calls is closed. Clients connect anew
        when they need to.
    drain_s: seconds that requests in flight have to end once the server is closed.
    """

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    max_message_bytes: Annotated[int, Field(ge=1, lt=2**31)] = 256 * 2**20
    max_metadata_bytes: Annotated[int, Field(ge=1024, lt=2**31)] = 32 * 2**10
    max_connections: Annotated[int, Field(ge=1, lt=2**31)] = 1000
    max_calls: Annotated[int, Field(ge=1)] = 4096
    max_connection_calls: Annotated[int, Field(ge=1, lt=2**31)] = 1000
    max_stream_requests: Annotated[int, Field(ge=1)] = 128
    handshake_timeout_s: Annotated[float, Field(ge=0.001, le=3600)] = 10.0
    idle_timeout_s: Annotated[float, Field(ge=0.001, le=86400)] = 300.0
    drain_s: Positive = 30.0


class SharedMemoryOptions(Options):
    """Tensors in shared memory instead of in messages.

    system: whether clients may name POSIX shared memory, by gRPC and HTTP alike. Any client then
        has the server read and write any shared memory object of the server's user; only admins,
        where there are tokens.
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


class AdminOptions(Options):
    """A second HTTP port, for those who run the server.

    host, port: where to listen. With a port, loading and unloading, timeline, metering, metrics,
        the page and the registration of shared memory are there, beside all else, and not at the
        public HTTP port, nor at the gRPC port. Port 0 takes a free one.
    """

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] | None = None


class TokenOptions(Options):
    """One bearer token, and what it is good for.

    tenant: whose it is. A tenant may have several, so that one can take over from another.
    sha256: of the token, in hexadecimal, as ``missile token new`` prints it.
    calls: ``"infer"``; ``"metadata"``, which is what the server says of itself and of models;
        ``"admin"``, which is what `AdminOptions` lists.
    models: that it may infer and see, ``"*"`` for all; None for those of its tenant.
    priorities: classes that its requests may have.
    """

    tenant: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    calls: Annotated[list[Literal["infer", "metadata", "admin"]], Field(min_length=1)] = [
        "infer",
        "metadata",
    ]
    models: list[Annotated[str, Field(min_length=1)]] | None = None
    priorities: Annotated[list[Literal["latency", "best_effort"]], Field(min_length=1)] = [
        "latency",
        "best_effort",
    ]


class AuthOptions(Options):
    """Who may call; see docs/security.md.

    tokens: those that are accepted, by HTTP and gRPC alike. Without any, whoever reaches the server
        may do everything.
    insecure: whether the server may listen beyond this machine with neither tokens nor client
        certificates.
    """

    tokens: list[TokenOptions] = []
    insecure: bool = False

    @field_validator("tokens")
    @classmethod
    def _each_once(cls, tokens: list[TokenOptions]) -> list[TokenOptions]:
        if len({token.sha256 for token in tokens}) != len(tokens):
            raise ValueError("each token must have its own sha256")
        return tokens


class TlsOptions(Options):
    """TLS for HTTP and gRPC; off without a certificate.

    certificate, key: PEM files: the certificate with those that lead to its authority, and its
        private key, which must not be encrypted.
    client_ca: PEM file of the authorities by which clients must have a certificate (mTLS).
    """

    certificate: Annotated[str, Field(min_length=1)] | None = None
    key: Annotated[str, Field(min_length=1)] | None = None
    client_ca: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("give certificate and key, or neither")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca needs certificate and key")
        return self


class LimitOptions(Options):
    """How much one inference request may say, and all may hold, over HTTP and gRPC alike.

    max_tensors: inputs, and outputs asked for.
    max_parameters: of the request, and of each tensor.
    max_text_chars: of each id, name, and parameter that is a text.
    max_inflight_bytes: bodies and messages of requests that have not been answered, all doors
        together; one that finds no room is answered with 503 or RESOURCE_EXHAUSTED. Up to 64 KiB
        of each do not count, and a request is never refused that is alone.
    """

    max_tensors: Annotated[int, Field(ge=1)] = 1024
    max_parameters: Annotated[int, Field(ge=1)] = 64
    max_text_chars: Annotated[int, Field(ge=1)] = 4096
    max_inflight_bytes: Annotated[int, Field(ge=1)] = 2**30


class ServerOptions(Options):
    """All that a server can be told, a section a subject."""

    http: HttpOptions = HttpOptions()
    grpc: GrpcOptions = GrpcOptions()
    admin: AdminOptions = AdminOptions()
    auth: AuthOptions = AuthOptions()
    tls: TlsOptions = TlsOptions()
    limits: LimitOptions = LimitOptions()
    shared_memory: SharedMemoryOptions = SharedMemoryOptions()
    observe: ObserveOptions = ObserveOptions()
    trace: TraceOptions = TraceOptions()
    log: LogOptions = LogOptions()
