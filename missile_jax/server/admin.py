"""Routes for those who run the server: what loads models, and what shows who did what.

They tell of tenants and their models; they are kept apart from all that clients need.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from missile_jax.errors import InvalidInputError
from missile_jax.observe import metering, page
from missile_jax.observe.metrics import Exposition
from missile_jax.observe.recent import Recent
from missile_jax.observe.timeline import Timelines
from missile_jax.options import ObserveOptions
from missile_jax.runtime import Runtime
from missile_jax.server.control import repository_routes
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.memory_routes import memory_routes

# The page has no outside assets, and nothing of it comes from a name.
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def operator_routes(dataplane: Dataplane, options: ObserveOptions) -> list[Route]:
    """All of them: beside what `options` asks for, models and shared memory."""
    return [
        *(metrics_routes(dataplane) if options.metrics else []),
        *admin_routes(dataplane.runtime, options),
        *repository_routes(dataplane),
        *memory_routes(dataplane.regions),
    ]


def metrics_routes(dataplane: Dataplane) -> list[Route]:
    """``/metrics`` for Prometheus."""
    exposition = Exposition(dataplane.runtime, dataplane.calls)

    def metrics(request: Request) -> Response:
        body, content_type = exposition.render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return [Route("/metrics", metrics, methods=["GET"])]


def admin_routes(runtime: Runtime, options: ObserveOptions) -> list[Route]:
    """Timelines, metering, and the page where it is wanted."""
    timelines = Timelines(runtime)

    async def timeline(request: Request) -> Response:
        seconds = _seconds(request.query_params.get("seconds", "5"), options.timeline_s)
        return Response(
            await _while_connected(request, timelines.record(seconds)),
            media_type="application/octet-stream",
            headers={"content-disposition": 'attachment; filename="missile.pftrace"'},
        )

    def bill(_: Request) -> Response:
        return Response(metering.to_csv(runtime.stats()), media_type="text/csv")

    routes = [
        Route("/v2/timeline", timeline, methods=["GET"]),
        Route("/v2/metering.csv", bill, methods=["GET"]),
    ]
    return routes + (_page_routes(runtime) if options.page else [])


def _page_routes(runtime: Runtime) -> list[Route]:
    recent = Recent(runtime)

    def show(_: Request) -> Response:
        return Response(page.html(), media_type="text/html", headers=_PAGE_HEADERS)

    def data(_: Request) -> Response:
        document = page.summary(runtime.stats(), recent.look())
        headers = {"cache-control": "no-store"}
        return Response(orjson.dumps(document), media_type="application/json", headers=headers)

    return [
        Route("/", show, methods=["GET"]),
        Route("/v2/page.json", data, methods=["GET"]),
    ]


async def _while_connected(request: Request, work: Coroutine[Any, Any, bytes]) -> bytes:
    """What `work` gives; it is cancelled when the client leaves."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else b""
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _seconds(text: str, longest: float) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= longest:
        raise InvalidInputError(f"seconds={text!r} must be a number over 0 and up to {longest:g}")
    return seconds
