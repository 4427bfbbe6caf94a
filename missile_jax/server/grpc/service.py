"""The calls of GRPCInferenceService over one `Dataplane`, and how they end when the server does."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import CancelledError
from typing import Any

from google.protobuf.json_format import ParseDict
from grpc import StatusCode
from grpc.aio import InternalError, ServicerContext
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from missile_jax.errors import ModelNotFoundError, ModelUnavailableError, RuntimeClosedError
from missile_jax.runtime import Soon
from missile_jax.server.auth import ANYONE, Call, Caller
from missile_jax.server.codec import InferRequest
from missile_jax.server.dataplane import Dataplane, Pending
from missile_jax.server.grpc.crowd import Crowd, in_some_turns
from missile_jax.server.grpc.messages import decode_request, encode_response
from missile_jax.server.grpc.status import Status, status_of
from missile_jax.server.inflight import SMALL_BYTES
from missile_jax.server.watch import REQUEST_ID, Watch, Watched, request_id
from missile_jax.server.workers import LARGE_BYTES, Workers

SERVICE: str = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name


Method = Callable[..., Awaitable[Any]]
Headers = tuple[tuple[str, str], ...]


def _answered(kind: Call | None) -> Callable[[Method], Method]:
    """A call whose errors become statuses, and which the server waits for when it stops.

    It is handed the caller, whose token allows calls of this kind. None: nobody is asked.
    """

    def answered(call: Method) -> Method:
        route, well = _route(call.__name__), (_route(call.__name__), StatusCode.OK.name)

        @functools.wraps(call)
        async def method(self: InferenceService, request: Any, context: ServicerContext) -> Any:
            self.begin()
            try:
                caller = ANYONE if kind is None else self.caller(kind, context)
                response = await call(self, request, context, caller)
            except asyncio.CancelledError as cancelled:
                error = self.cancelled(route, cancelled)
            except Exception as raised:  # noqa: BLE001 - the last one to hear of it
                error = raised
            else:
                if response is not None:  # the requests of a stream have counted
                    self.answered[well] += 1
                return response
            called = request_id(_headers(context), "")
            status = status_of(error, _subject(request), called)
            self.answered[route, status.code.name] += 1
            await context.abort(*status, ((REQUEST_ID, called),))

        return method

    return answered


def _not_supported(name: str, text: str) -> Callable[..., Awaitable[Any]]:
    async def method(self: InferenceService, request: Any, context: ServicerContext) -> None:
        self.answered[_route(name), StatusCode.UNIMPLEMENTED.name] += 1
        await context.abort(StatusCode.UNIMPLEMENTED, text)

    return method


def _elsewhere(name: str) -> Callable[..., Awaitable[Any]]:
    return _not_supported(name, "this call is answered at the server's admin port only, over HTTP")


def _route(name: str) -> str:
    return f"{SERVICE}/{name}"


_INFER, _STREAM = _route("ModelInfer"), _route("ModelStreamInfer")
_OK = Status(StatusCode.OK, "")
_OK_NAME = StatusCode.OK.name  # which takes as long to look up as all else that counting does


class InferenceService(service_pb2_grpc.GRPCInferenceServiceServicer):
    """The servicer.

    max_stream_requests: requests of one stream that may be under way.
    watch: follows each inference; None for no one.
    answered: counts of calls by route and status. A stream counts where it fails, and each of its
        requests does.
    stopping: set once no more requests are taken.
    workers: for what is large; to be closed with the server.
    """

    def __init__(
        self, dataplane: Dataplane, max_stream_requests: int, watch: Watch | None = None
    ) -> None:
        self._dataplane = dataplane
        self._watch = watch
        self.answered = dataplane.calls.door("grpc")
        self._max_stream_requests = max_stream_requests
        self.workers = Workers("missile-grpc")
        self._calls: set[asyncio.Task[Any]] = set()
        self._crowd = Crowd()
        self._readers: set[asyncio.Task[Any]] = set()
        self.stopping = asyncio.Event()

    def ready(self) -> bool:
        """Whether requests are taken."""
        return not self.stopping.is_set() and self._dataplane.ready()

    def caller(self, kind: Call, context: ServicerContext) -> Caller:
        """Who makes a call of this kind. Raises AccessError for one who may not."""
        tokens = self._dataplane.tokens
        if tokens is None:
            return ANYONE
        metadata = context.invocation_metadata() or ()
        found = tokens.caller([str(value) for key, value in metadata if key == "authorization"])
        found.check(kind)
        return found

    def begin(self) -> None:
        """The current task is a call that `stop` waits for."""
        call = asyncio.current_task()
        assert call is not None
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    def refused(self, method: str) -> None:
        """Counts a call of `method`, as gRPC names it, that was one too many."""
        self.answered[method.removeprefix("/"), StatusCode.RESOURCE_EXHAUSTED.name] += 1

    def cancelled(self, route: str, error: asyncio.CancelledError) -> RuntimeClosedError:
        """What became of a call that was cancelled. Raises `error` where its client left."""
        if self.stopping.is_set():
            return RuntimeClosedError("the server stopped before the answer was there")
        self.answered[route, StatusCode.CANCELLED.name] += 1
        raise error

    async def stop(self, drain_s: float) -> None:
        """Take no more requests and let those in flight end; after `drain_s` they are given up."""
        self.stopping.set()
        for reader in self._readers:
            reader.cancel()
        if not self._calls:
            return
        _, late = await asyncio.wait(self._calls, timeout=drain_s)
        for call in late:
            call.cancel()
        if late:
            await asyncio.wait(late)

    # Server and models.

    @_answered(None)
    async def ServerLive(
        self, request: pb.ServerLiveRequest, _: Any, caller: Caller
    ) -> pb.ServerLiveResponse:
        """True."""
        return pb.ServerLiveResponse(live=True)

    @_answered(None)
    async def ServerReady(
        self, request: pb.ServerReadyRequest, _: Any, caller: Caller
    ) -> pb.ServerReadyResponse:
        """Whether requests are taken."""
        return pb.ServerReadyResponse(ready=self.ready())

    @_answered(Call.METADATA)
    async def ModelReady(
        self, request: pb.ModelReadyRequest, _: Any, caller: Caller
    ) -> pb.ModelReadyResponse:
        """False for a model that is not there or not loaded, as Triton says it."""
        try:
            ready = self._dataplane.model_ready(request.name, request.version, caller)
        except (ModelNotFoundError, ModelUnavailableError):
            ready = False
        return pb.ModelReadyResponse(ready=ready)

    @_answered(Call.METADATA)
    async def ServerMetadata(
        self, request: Any, _: Any, caller: Caller
    ) -> pb.ServerMetadataResponse:
        """Name, version and extensions."""
        return pb.ServerMetadataResponse(**self._dataplane.server_metadata())

    @_answered(Call.METADATA)
    async def ModelMetadata(self, request: Any, _: Any, caller: Caller) -> pb.ModelMetadataResponse:
        """Tensors of a model."""
        metadata = self._dataplane.model_metadata(request.name, request.version, caller)
        return ParseDict(metadata, pb.ModelMetadataResponse())

    @_answered(Call.METADATA)
    async def ModelConfig(self, request: Any, _: Any, caller: Caller) -> pb.ModelConfigResponse:
        """What clients read before they send."""
        config = self._dataplane.model_config(request.name, request.version, caller)
        return ParseDict({"config": config}, pb.ModelConfigResponse())

    @_answered(Call.METADATA)
    async def ModelStatistics(
        self, request: Any, _: Any, caller: Caller
    ) -> pb.ModelStatisticsResponse:
        """Counters of one model, or of all where no name is given."""
        statistics = self._dataplane.statistics(request.name, request.version, caller)
        return ParseDict(statistics, pb.ModelStatisticsResponse())

    @_answered(Call.METADATA)
    async def RepositoryIndex(
        self, request: Any, _: Any, caller: Caller
    ) -> pb.RepositoryIndexResponse:
        """Every model there is, or every one that is ready."""
        models = self._dataplane.index(request.ready, caller)
        return ParseDict({"models": models}, pb.RepositoryIndexResponse())

    @_answered(Call.ADMIN)
    async def RepositoryModelLoad(
        self, request: Any, _: Any, caller: Caller
    ) -> pb.RepositoryModelLoadResponse:
        """Load a model, and wait until it is there."""
        await self._dataplane.load_model(request.model_name, request.parameters)
        return pb.RepositoryModelLoadResponse()

    @_answered(Call.ADMIN)
    async def RepositoryModelUnload(
        self, request: Any, _: Any, caller: Caller
    ) -> pb.RepositoryModelUnloadResponse:
        """Unload a model."""
        await self._dataplane.unload_model(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    # Shared memory.

    @_answered(Call.ADMIN)
    async def SystemSharedMemoryStatus(
        self, request: Any, _: Any, __: Caller
    ) -> pb.SystemSharedMemoryStatusResponse:
        """One region, or all where no name is given."""
        response = pb.SystemSharedMemoryStatusResponse()
        for region in self._dataplane.regions.status(request.name):
            status = response.regions[region.name]
            status.name, status.key = region.name, region.key
            status.offset, status.byte_size = region.offset_bytes, region.size_bytes
        return response

    @_answered(Call.ADMIN)
    async def SystemSharedMemoryRegister(
        self, request: Any, _: Any, __: Caller
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Know a part of a shared memory object by a name."""
        self._dataplane.regions.register(
            request.name, request.key, request.offset, request.byte_size
        )
        return pb.SystemSharedMemoryRegisterResponse()

    @_answered(Call.ADMIN)
    async def SystemSharedMemoryUnregister(
        self, request: Any, _: Any, __: Caller
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Forget a region, or all where no name is given."""
        self._dataplane.regions.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    CudaSharedMemoryStatus, CudaSharedMemoryRegister, CudaSharedMemoryUnregister = (
        _not_supported(
            f"CudaSharedMemory{verb}",
            "CUDA shared memory is not supported; use system shared memory",
        )
        for verb in ("Status", "Register", "Unregister")
    )
    TraceSetting = _not_supported("TraceSetting", "trace settings are not supported")
    LogSettings = _not_supported("LogSettings", "log settings are not supported")

    # Inference.

    async def ModelInfer(
        self, message: pb.ModelInferRequest, context: ServicerContext
    ) -> pb.ModelInferResponse | None:
        """One request, one response."""
        self.begin()
        soon = self._crowd.soon(len(self._calls))
        response, status, headers = await self._followed(_INFER, message, context, soon)
        if response is None:
            await context.abort(*status, headers)
        if headers:
            context.set_trailing_metadata(headers)
        return response

    @_answered(Call.INFER)
    async def ModelStreamInfer(
        self,
        messages: AsyncIterator[pb.ModelInferRequest],
        context: ServicerContext,
        _: Caller,
    ) -> None:
        """Many requests, each answered when it is ready; an error ends its request alone."""
        places = asyncio.Semaphore(self._max_stream_requests)
        one_at_a_time = asyncio.Lock()

        async def answer(message: pb.ModelInferRequest) -> None:
            response = await self._stream_response(message, context)
            async with one_at_a_time:
                with contextlib.suppress(InternalError):  # the client left: this is cancelled next
                    await context.write(response)
            places.release()

        async def read() -> None:
            await places.acquire()
            async for message in messages:
                group.create_task(answer(message))
                await places.acquire()

        async with asyncio.TaskGroup() as group:
            reader = group.create_task(read())
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)
        if reader.cancelled():
            raise RuntimeClosedError("the server is stopping")

    async def _stream_response(
        self, message: pb.ModelInferRequest, context: ServicerContext
    ) -> pb.ModelStreamInferResponse:
        response, (_, text), _ = await self._followed(_STREAM, message, context, in_some_turns)
        if response is None:
            response = pb.ModelInferResponse(model_name=message.model_name, id=message.id)
        # There is one response to a request, so each is the final one, and none that is empty has
        # to follow for a client that asks for it by triton_enable_empty_final_response.
        response.parameters["triton_final_response"].bool_param = True
        return pb.ModelStreamInferResponse(error_message=text, infer_response=response)

    async def _followed(
        self,
        route: str,
        message: pb.ModelInferRequest,
        context: ServicerContext,
        soon: Soon | None,
    ) -> tuple[pb.ModelInferResponse | None, Status, Headers]:
        """One inference, watched and counted: its response, its status, and metadata to send.

        soon: see `Runtime.submit_tensors`.

        Each request of a stream shows its token anew: a token may have been revoked since.
        """
        watched, given = None, None
        if self._watch is not None:
            given = _headers(context)
            watched = self._watch.begin("grpc", given, message.model_name)
        response, cancelled = None, None
        error: BaseException | None = None
        try:
            caller = self.caller(Call.INFER, context)
            response = await self._infer(message, context, caller, watched, soon)
        except asyncio.CancelledError as raised:
            stopped = RuntimeClosedError("the server stopped before the answer was there")
            error = stopped if self.stopping.is_set() else CancelledError()
            cancelled = raised
        except Exception as raised:  # noqa: BLE001 - the last one to hear of it
            error = raised
        if error is None and watched is None:
            self.answered[route, _OK_NAME] += 1
            return response, _OK, ()
        # A stream's own id is that of all its requests.
        named = {} if route is _STREAM else given or _headers(context)
        called = request_id(named, message.id)
        status = _OK if error is None else status_of(error, _subject(message), called)
        self.answered[route, status.code.name] += 1
        headers = {REQUEST_ID: called}
        if watched is not None:
            headers |= watched.end(called, status.code.name, error, status.text)
        if cancelled is not None and (route is _STREAM or not self.stopping.is_set()):
            raise cancelled
        return response, status, tuple(headers.items())

    async def _infer(
        self,
        message: pb.ModelInferRequest,
        context: ServicerContext,
        caller: Caller,
        watched: Watched | None,
        soon: Soon | None,
    ) -> pb.ModelInferResponse:
        size_bytes = message.ByteSize()
        if size_bytes <= SMALL_BYTES:
            return await self._answer(message, size_bytes, context, caller, watched, soon)
        with self._dataplane.inflight.claim(size_bytes):
            return await self._answer(message, size_bytes, context, caller, watched, soon)

    async def _answer(
        self,
        message: pb.ModelInferRequest,
        size_bytes: int,
        context: ServicerContext,
        caller: Caller,
        watched: Watched | None,
        soon: Soon | None,
    ) -> pb.ModelInferResponse:
        if self.stopping.is_set():
            raise RuntimeClosedError("the server is stopping")
        dataplane, name = self._dataplane, message.model_name
        left_s = context.time_remaining()
        regions = dataplane.regions_for(caller)

        def submit(soon: Soon | None = None) -> Pending:
            request = _until(left_s, decode_request(message, regions, dataplane.limits))
            return dataplane.submit(name, request, message.model_version, caller, soon=soon)

        names_memory = dataplane.regions.on and _names_memory(message)
        if size_bytes < LARGE_BYTES and not names_memory:
            pending = submit(soon)
        else:
            latency = dataplane.is_latency(name)
            pending = await self.workers.run(latency, submit, Pending.cancel)
        response, request = await pending.response(), pending.request
        if watched is not None:
            watched.phases = pending.phases
        encode = functools.partial(encode_response, response, request, regions)
        if response.nbytes < LARGE_BYTES and not request.slices:
            return encode()
        return await self.workers.run(dataplane.is_latency(name), encode)


def _names_memory(message: pb.ModelInferRequest) -> bool:
    return any("shared_memory_region" in tensor.parameters for tensor in message.inputs)


class PublicInferenceService(InferenceService):
    """The servicer beside an admin port, which has what is not here."""

    RepositoryModelLoad = _elsewhere("RepositoryModelLoad")
    RepositoryModelUnload = _elsewhere("RepositoryModelUnload")
    SystemSharedMemoryStatus = _elsewhere("SystemSharedMemoryStatus")
    SystemSharedMemoryRegister = _elsewhere("SystemSharedMemoryRegister")
    SystemSharedMemoryUnregister = _elsewhere("SystemSharedMemoryUnregister")


def _until(left_s: float | None, request: InferRequest) -> InferRequest:
    """`request`, of no use after the call's own deadline either."""
    if left_s is None:
        return request
    left_us = max(1, round(left_s * 1e6))
    if request.timeout_us is not None:
        left_us = min(left_us, request.timeout_us)
    return request._replace(timeout_us=left_us)


def _headers(context: ServicerContext) -> dict[str, str]:
    """A call's metadata that are texts, by name."""
    metadata = context.invocation_metadata() or ()
    return {name: value for name, value in metadata if isinstance(value, str)}


def _subject(request: Any) -> str:
    name = getattr(request, "model_name", None)
    return "the server" if name is None else f"model {name!r:.80}"
