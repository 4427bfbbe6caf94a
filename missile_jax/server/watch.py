"""Follows inferences from their headers to their end: ids, the access log, the trace."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import CancelledError
from typing import Any

from missile_jax.engine.request import Phases
from missile_jax.errors import (
    DeadlineExceededError,
    MissileError,
    OverloadedError,
    QueueFullError,
)
from missile_jax.observe.trace import Span, Tracer, otlp_exporter
from missile_jax.options import LogOptions, TraceOptions
from missile_jax.runtime import Runtime

REQUEST_ID = "x-request-id"
_ID = re.compile(r"[!-~]{1,128}")
# As the metrics call them. The first that fits: some are kinds of others below them.
_OUTCOMES: dict[type[BaseException], str] = {
    OverloadedError: "overloaded",
    QueueFullError: "rejected",
    DeadlineExceededError: "deadline",
    CancelledError: "cancelled",
}
# By the semantic conventions of OpenTelemetry.
_STATUS = {"http": "http.response.status_code", "grpc": "rpc.response.status_code"}

_access = logging.getLogger("missile_jax.access")


def request_id(headers: Mapping[str, str], protocol_id: str = "") -> str:
    """What a client calls its request: in a header, or by the protocol; else a made one."""
    for given in (headers.get(REQUEST_ID, ""), protocol_id):
        if _ID.fullmatch(given):
            return given
    return secrets.token_hex(8)


def by_name(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers as ASGI has them, by lower-case name."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}


class Watch:
    """Of one server. `begin` is called for each inference; a server that needs none has no watch.

    tracer: gives the spans; None for no traces. access: whether each inference is logged.
    """

    def __init__(self, runtime: Runtime, tracer: Tracer | None, access: bool) -> None:
        self._runtime = runtime
        self._tracer = tracer
        self._access = access

    @classmethod
    def of(cls, runtime: Runtime, trace: TraceOptions, log: LogOptions) -> Watch | None:
        """One that does what the options ask for; None if that is nothing.

        Raises ConfigError for an exporter that is not installed.
        """
        tracer = None
        if trace.otlp is not None:
            tracer = Tracer(otlp_exporter(trace.otlp))
        elif trace.context:
            tracer = Tracer()
        return cls(runtime, tracer, log.access) if tracer or log.access else None

    def begin(self, transport: str, headers: Mapping[str, str], model: str) -> Watched:
        """A request for `model` came with `headers`, by lower-case name.

        transport: ``"http"`` or ``"grpc"``, whose metadata are its headers.
        """
        span = None if self._tracer is None else self._tracer.begin(headers)
        return Watched(self, transport, model, span)

    def close(self) -> None:
        """Sends what is left of the trace."""
        if self._tracer is not None:
            self._tracer.close()

    def ended(
        self,
        watched: Watched,
        request_id: str,
        status: int | str,
        error: BaseException | None,
        text: str,
    ) -> None:
        """Logs and traces a request that was answered with `status`."""
        facts: dict[str, Any] = {
            "request_id": request_id,
            "transport": watched.transport,
            "model": watched.model,
            "tenant": self._tenant(watched.model),
            "outcome": _outcome(error),
        }
        if self._tracer is not None and watched.span is not None:
            attributes: dict[str, Any] = {f"missile.{name}": value for name, value in facts.items()}
            attributes[_STATUS[watched.transport]] = status
            if watched.transport == "grpc":
                attributes["rpc.system.name"] = "grpc"
            self._tracer.end(watched.span, attributes, watched.phases, text)
            facts["trace_id"] = watched.span.context.trace_id
        if self._access:
            _access.info("infer", extra=facts | {"status": status} | watched.times_ms())

    def _tenant(self, model: str) -> str:
        try:
            return self._runtime.describe(model).tenant
        except MissileError:  # There is no such model, or not any more.
            return ""


class Watched:
    """One inference.

    phases: where its time went, once it has succeeded.
    """

    def __init__(self, watch: Watch, transport: str, model: str, span: Span | None) -> None:
        self._watch = watch
        self._start_ns = time.perf_counter_ns()
        self.transport = transport
        self.model = model
        self.span = span
        self.phases: Phases | None = None

    def end(
        self,
        request_id: str,
        status: int | str,
        error: BaseException | None = None,
        text: str = "",
    ) -> dict[str, str]:
        """It is answered with `status`. Returns headers for the answer.

        error: what it failed by. text: what the client is told of that.
        """
        self._watch.ended(self, request_id, status, error, text)
        if self.span is None:
            return {}
        return {"traceparent": self.span.context.traceparent}

    def times_ms(self) -> dict[str, Any]:
        """From the request's head to its answer, and what `phases` says."""
        times = {"total_ms": _ms(time.perf_counter_ns() - self._start_ns)}
        if self.phases is not None:
            times |= {
                "queue_ms": _ms(self.phases.queue_ns),
                "swap_ms": _ms(self.phases.swap_ns),
                "compute_ms": _ms(self.phases.compute_ns),
            }
        return times


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "success"
    return next((name for kind, name in _OUTCOMES.items() if isinstance(error, kind)), "error")


def _ms(duration_ns: int) -> float:
    return round(duration_ns / 1e6, 3)
