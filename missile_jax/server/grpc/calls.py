"""How many calls there are at a time, over all connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import grpc
from grpc.aio import Server, ServicerContext


class CallLimit:
    """Refuses a call beyond `max_calls` with RESOURCE_EXHAUSTED, before its message is read.

    Services are added to it as to a server.

    apart: names of methods that are counted, as many again, for themselves: they are asked for
        health, also where all others are taken.
    refused: called with the method of each call that is refused.
    """

    def __init__(
        self,
        server: Server,
        max_calls: int,
        apart: Iterable[str] = (),
        *,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        self._refused = refused
        self._server = server
        self._max_calls = max_calls
        self._apart = frozenset(apart)
        self._calls: set[asyncio.Task[Any]] = set()
        self._calls_apart: set[asyncio.Task[Any]] = set()
        # As a stream: of a call that is none its message would be read first.
        self._refusal = grpc.stream_stream_rpc_method_handler(self._refuse)

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve what `handlers` do, within the limit."""
        self._server.add_generic_rpc_handlers([_Limited(handler, self) for handler in handlers])

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Nothing: they are among the generic ones, which gRPC would leave out for these.

        For methods that are registered by name, grpc.aio also waits for the next call of each of
        them, and does so anew for all of them after every call.
        """

    def admit(self, method: str) -> bool:
        """Whether the current task may call `method`; then it counts until it is done."""
        calls = self._calls_apart if method in self._apart else self._calls
        if len(calls) >= self._max_calls:
            if self._refused is not None:
                self._refused(method)
            return False
        call = asyncio.current_task()
        assert call is not None
        calls.add(call)
        call.add_done_callback(calls.discard)
        return True

    def handler(
        self, found: grpc.RpcMethodHandler | None, method: str
    ) -> grpc.RpcMethodHandler | None:
        """`found`, or one that refuses."""
        return found if found is None or self.admit(method) else self._refusal

    async def _refuse(self, _: AsyncIterator[bytes], context: ServicerContext) -> None:
        await context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"{self._max_calls} calls are in flight, which is the most; ask again later",
        )


class _Limited(grpc.GenericRpcHandler):
    def __init__(self, handlers: grpc.GenericRpcHandler, limit: CallLimit) -> None:
        self._handlers = handlers
        self._limit = limit

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        found = self._handlers.service(handler_call_details)
        return self._limit.handler(found, handler_call_details.method)
