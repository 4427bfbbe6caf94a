"""The HTTP routes of the Open Inference Protocol v2, as one ASGI application.

Inference is the hot path: `HttpApp` answers it as a bare ASGI coroutine. All other routes go
through starlette.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from missile_jax.errors import MissileError, RuntimeClosedError
from missile_jax.observe.calls import OTHER
from missile_jax.runtime import Soon
from missile_jax.server.answer import JSON, Answer, failure
from missile_jax.server.auth import ANYONE, Call, Caller
from missile_jax.server.body import Bodies
from missile_jax.server.codec import (
    decode_request,
    encode_parts,
    encode_response,
)
from missile_jax.server.connection import ANSWER, CONNECTION, Connection
from missile_jax.server.control import index_route
from missile_jax.server.dataplane import Dataplane, Pending
from missile_jax.server.encoding import WORTH_IT_BYTES, deflate
from missile_jax.server.guard import CALLER, authorizations, guarded
from missile_jax.server.inflight import SMALL_BYTES
from missile_jax.server.interruption import Interruptible, stopped
from missile_jax.server.openapi import document
from missile_jax.server.watch import REQUEST_ID, Watch, Watched, by_name, request_id
from missile_jax.server.workers import LARGE_BYTES, Workers

_BINARY = (b"content-type", b"application/octet-stream")
# Where a scope has what the request is called.
_ID = "missile.id"
_MODEL_PATHS = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
_INFER_PATHS = tuple(f"{path}/infer" for path in _MODEL_PATHS)
# As others do who have to say that the client left; it is never sent.
_CLIENT_LEFT = 499


class HttpApp:
    """The ASGI application over one `Dataplane`, to be run under `LimitedProtocol`.

    max_body_bytes: a longer body is answered with 413.
    watch: follows each inference; None for no one.
    routes: for those who run the server, beside those for all.
    workers: for what is large; to be closed with the server.
    """

    def __init__(
        self,
        dataplane: Dataplane,
        *,
        max_body_bytes: int,
        watch: Watch | None = None,
        routes: Sequence[Route] = (),
    ) -> None:
        self._dataplane = dataplane
        self._watch = watch
        self._starlette = _starlette(dataplane, routes)
        self._others = Interruptible(self._starlette)
        self._answered = dataplane.calls.door("http")
        self.workers = Workers("missile-http")
        self._bodies = Bodies(dataplane, max_body_bytes, self.workers)

    def routes(self) -> set[tuple[str, str]]:
        """(method, path) of every route, as `openapi.yaml` writes paths."""
        others = {
            (method, route.path)
            for route in self._starlette.routes
            if isinstance(route, Route)
            for method in (route.methods or set()) - {"HEAD"}
        }
        return others | {("POST", path) for path in _INFER_PATHS}

    def begins_at_once(self, path: str) -> bool:
        """Whether requests for `path` may begin without a task: inferences, most of which never
        wait."""
        return len(path) <= _KNOWN_PATH and _known_target(path) is not None

    def refused(self, status: int) -> None:
        """Counts an answer to what was no request, or none that could be read."""
        self._answered[OTHER, str(status)] += 1

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request that is no inference."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                path = route.path if isinstance(route, Route) else OTHER
                self._answered[path, str(message["status"])] += 1
            await send(message)

        await self._others(scope, receive, counted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"] if scope["type"] == "http" else ""
        target = _known_target(path) if len(path) <= _KNOWN_PATH else _infer_target(path)
        if target is None:
            await self._other(scope, receive, send)
            return
        connection: Connection = scope["extensions"][CONNECTION]
        watched = None
        if self._watch is not None:
            watched = self._watch.begin("http", by_name(scope["headers"]), target[0])
        error: BaseException | None = None
        try:
            answer = await self._infer(*target, scope, receive, connection, watched)
        except asyncio.CancelledError:
            error = stopped()
            answer = failure(error, request_id=_request_id(scope))
        except Exception as raised:  # noqa: BLE001 - the last one to hear of it
            error = raised
            answer = failure(error, f"model {target[0]!r}", _request_id(scope))
        if answer is None or connection.is_closing():
            answer, error = None, CancelledError()
        status = _CLIENT_LEFT if answer is None else answer.status
        route = _INFER_PATHS[target[1] != ""]
        self._answered[route, "200" if status == 200 else str(status)] += 1
        if watched is not None:
            _end(watched, scope, answer, error)
        if answer is not None:
            status, body, headers, rest = answer
            ours = error is None and watched is None  # nothing in its headers is the client's
            if ours and not rest and scope[ANSWER](status, headers, body):
                return
            connection.hold()
            try:
                await send({"type": "http.response.start", "status": status, "headers": headers})
                for part in rest:
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    body = part
                await send({"type": "http.response.body", "body": body})
            finally:
                connection.release()

    async def _infer(
        self,
        name: str,
        version: str,
        scope: Scope,
        receive: Receive,
        connection: Connection,
        watched: Watched | None,
    ) -> Answer | None:
        """The answer, or None where the client left before its request was whole."""
        if scope["method"] != "POST":
            raise HTTPException(405, "use POST to infer", {"Allow": "POST"})
        caller, regions = ANYONE, self._dataplane.regions
        if self._dataplane.tokens is not None:
            caller = self._dataplane.tokens.caller(authorizations(scope))
            caller.check(Call.INFER)
            regions = self._dataplane.regions_for(caller)
        length, encoding, accept = self._bodies.head(scope["headers"])
        claim = None
        try:
            message = await receive()
            short = len(message.get("body", b"")) <= SMALL_BYTES
            if short and encoding is None and not message.get("more_body"):
                parts = self._bodies.whole(message)
            else:
                claim = self._dataplane.inflight.claim()
                parts = await self._bodies.read(name, message, receive, claim)
                if parts is not None and encoding is not None:
                    parts = await self._bodies.inflate(name, parts, encoding, claim, connection)
            if parts is None or connection.is_closing():
                return None

            def submit(soon: Soon | None = None) -> Pending:
                body = parts[0] if len(parts) == 1 else b"".join(parts)
                parts.clear()  # what is read of them is in the body
                request = decode_request(body, length, regions, self._dataplane.limits)
                scope[_ID] = request.id
                return self._dataplane.submit(name, request, version, caller, soon=soon)

            if self._is_large(parts):
                latency = self._dataplane.is_latency(name)
                pending = await self.workers.run(latency, submit, Pending.cancel)
            else:
                # Short requests that the loop finds in one turn share batches.
                pending = submit(None if connection.alone else asyncio.get_running_loop().call_soon)
            if not pending.done:
                await _await(pending, connection)
            response = pending.result()
            if watched is not None:
                watched.phases = pending.phases
            if response.nbytes < LARGE_BYTES and not pending.request.slices:
                body, length = encode_response(response, pending.request, regions)
                rest = ()
            else:
                encode = functools.partial(encode_parts, response, pending.request, regions)
                latency = self._dataplane.is_latency(name)
                body, rest, length = await self.workers.run(latency, encode)
            if accept is None or sum(map(len, rest), len(body)) < WORTH_IT_BYTES:
                return _answer(body, rest, length)
            return _answer(
                await asyncio.to_thread(_deflate, (body, *rest), accept), (), length, accept
            )
        finally:
            if claim is not None:
                claim.release()

    def _is_large(self, parts: Sequence[bytes]) -> bool:
        """Whether a body is to be left to a thread, or may say that tensors are elsewhere."""
        first = parts[0]
        return len(parts) > 1 or len(first) >= LARGE_BYTES or self._dataplane.names_memory(first)


def _answer(
    body: bytes, rest: Sequence[memoryview], length: int | None, encoding: str | None = None
) -> Answer:
    """length: of the JSON before the tensors, None where all is JSON."""
    headers: list[tuple[bytes, bytes]] = [JSON]
    if length is not None:
        headers = [_BINARY, (b"inference-header-content-length", b"%d" % length)]
    if encoding is not None:
        headers += ((b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding"))
    headers.append((b"content-length", b"%d" % sum(map(len, rest), len(body))))
    return Answer(200, body, headers, rest)


async def _await(pending: Pending, connection: Connection) -> None:
    """Until a request is done. It is cancelled where the client leaves."""
    connection.on_lost.add(pending.cancel)
    if connection.is_closing():  # while a thread was at it
        pending.cancel()
    try:
        await pending.wait()
    finally:
        connection.on_lost.discard(pending.cancel)


def _request_id(scope: Scope) -> str:
    """What the request is called, the same whenever it is asked."""
    scope[_ID] = found = request_id(by_name(scope["headers"]), scope.get(_ID, ""))
    return found


def _end(
    watched: Watched, scope: Scope, answer: Answer | None, error: BaseException | None
) -> None:
    called = _request_id(scope)
    if answer is None:
        watched.end(called, _CLIENT_LEFT, error, "the client left")
        return
    text = "" if error is None else orjson.loads(answer.body)["error"]
    more = watched.end(called, answer.status, error, text)
    if error is None:
        more[REQUEST_ID] = called
    answer.headers.extend([(name.encode(), value.encode()) for name, value in more.items()])


def _infer_target(path: str) -> tuple[str, str] | None:
    """Model and version of /v2/models/MODEL[/versions/VERSION]/infer."""
    match path.split("/"):
        case ["", "v2", "models", name, "infer"]:
            return name, ""
        case ["", "v2", "models", name, "versions", version, "infer"]:
            return name, version
    return None


# Clients ask for the same few, again and again. Nothing long is kept: paths are theirs to say.
_KNOWN_PATH = 256
_known_target = functools.lru_cache(maxsize=1024)(_infer_target)


def _deflate(parts: Sequence[bytes | memoryview], encoding: str) -> bytes:
    return deflate(b"".join(parts), encoding)


def _starlette(dataplane: Dataplane, more: Sequence[Route]) -> Starlette:
    """Every route but inference. more: for those who run the server."""

    def openapi(*_: Any) -> Any:
        return document()

    def live(*_: Any) -> Any:
        return {"live": True}

    def ready(*_: Any) -> Any:
        if not dataplane.ready():
            raise RuntimeClosedError("the server is not ready: it loads its models, or it ends")
        return {"ready": True}

    def model_ready(name: str, version: str, caller: Caller) -> Any:
        return {"name": name, "ready": dataplane.model_ready(name, version, caller)}

    def server_metadata(*_: Any) -> Any:
        return dataplane.server_metadata()

    def get(path: str, answer: Callable[[str, str, Caller], Any]) -> Route:
        return Route(path, _endpoint(answer), methods=["GET"])

    metadata = [
        get("/v2", server_metadata),
        get("/v2/openapi.json", openapi),
        get("/v2/models/stats", dataplane.statistics),
        index_route(dataplane),
        *(
            get(base + suffix, answer)
            for base in _MODEL_PATHS
            for suffix, answer in (
                ("", dataplane.model_metadata),
                ("/ready", model_ready),
                ("/config", dataplane.model_config),
                ("/stats", dataplane.statistics),
            )
        ),
    ]
    app = Starlette(
        routes=[
            # Those who watch over servers have no tokens.
            get("/v2/health/live", live),
            get("/v2/health/ready", ready),
            *guarded(more, Call.ADMIN, dataplane.tokens),
            *guarded(metadata, Call.METADATA, dataplane.tokens),
        ],
        exception_handlers={
            HTTPException: _on_error,
            MissileError: _on_error,
            ClientDisconnect: _on_left,
            Exception: _on_error,
        },
    )
    app.router.redirect_slashes = False
    app.router.default = _no_route
    return app


async def _no_route(scope: Scope, receive: Receive, send: Send) -> None:
    raise HTTPException(404, f"no route {scope['path']!r:.80}; /v2/openapi.json lists them")


def _endpoint(
    answer: Callable[[str, str, Caller], Any],
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        path, caller = request.path_params, request.scope.get(CALLER, ANYONE)
        document = answer(path.get("name", ""), path.get("version", ""), caller)
        return Response(orjson.dumps(document), media_type="application/json")

    return endpoint


async def _on_left(request: Request, error: Exception) -> Response:
    return Response(status_code=_CLIENT_LEFT)  # which is counted, and not sent


async def _on_error(request: Request, error: Exception) -> Response:
    subject = f"{request.method} {request.url.path}"
    status, body, headers, _ = failure(error, subject, request_id(request.headers))
    response = Response(body, status)
    response.raw_headers = headers
    return response
