"""What a front end may ask of a `Runtime`, in the protocol's words and without a transport.

Each method gives plain values for a front end to encode. Every model has one version, ``"1"``, also
when it has been loaded anew. A model or version that is not there raises ModelNotFoundError, a
model that is configured but does not take requests now ModelUnavailableError. To a caller
who may not see a model it is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Mapping
from concurrent.futures import Future
from importlib.metadata import version as installed_version
from typing import Any

import numpy as np

from missile_jax.engine.request import Phases
from missile_jax.errors import (
    InvalidInputError,
    ModelNotFoundError,
    ModelUnavailableError,
    RuntimeClosedError,
)
from missile_jax.observe.calls import Calls
from missile_jax.options import LimitOptions, SharedMemoryOptions
from missile_jax.runtime import Runtime, Soon
from missile_jax.server.auth import ANYONE, Call, Caller, Tokens
from missile_jax.server.codec import InferRequest, InferResponse
from missile_jax.server.inflight import Inflight
from missile_jax.server.repository import READY, Repository, reason
from missile_jax.server.shared_memory import OFF, Regions
from missile_jax.server.tensors import CodecError, datatype_of
from missile_jax.spec import ModelInfo, Priority, TensorSpec

VERSION = "1"
PLATFORM = "missile_jax"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
_log = logging.getLogger(__name__)


class Dataplane:
    """One runtime, asked in the protocol's words.

    repository: the models that can be loaded and unloaded; none by default.
    regions: of shared memory, which all front ends share.
    tokens: of those who may call; None for anyone. limits: of one request.
    calls: where front ends count what they answer. inflight: what all requests hold.
    draining: set before the server ends, so that it is not ready any more.
    """

    __slots__ = (
        "_repository",
        "calls",
        "draining",
        "inflight",
        "limits",
        "regions",
        "runtime",
        "tokens",
    )

    def __init__(
        self,
        runtime: Runtime,
        repository: Repository | None = None,
        shared_memory: SharedMemoryOptions = SharedMemoryOptions(),
        *,
        tokens: Tokens | None = None,
        limits: LimitOptions = LimitOptions(),
    ) -> None:
        self.runtime = runtime
        self._repository = repository or Repository(runtime)
        self.regions = Regions(shared_memory)
        self.tokens = tokens
        self.limits = limits
        self.calls = Calls()
        self.inflight = Inflight(limits.max_inflight_bytes)
        self.draining = False

    def ready(self) -> bool:
        """Whether the models of startup are loaded, and every loaded one takes requests."""
        if self.draining or not self._repository.started:
            return False
        try:
            for name in self.runtime.models():
                self.runtime.describe(name)
        except RuntimeClosedError:
            return False
        except ModelNotFoundError:
            pass  # unloaded since: not to be waited for
        return True

    def model_ready(self, name: str, version: str = "", caller: Caller = ANYONE) -> bool:
        """True for a loaded model; raises an error for any other."""
        self._describe(name, version, caller)
        return True

    def server_metadata(self) -> dict[str, Any]:
        """Name, version and extensions of this server."""
        return {
            "name": "missile-jax",
            "version": installed_version("missile-jax"),
            "extensions": EXTENSIONS + ("system_shared_memory",) * self.regions.on,
        }

    def model_metadata(
        self, name: str, version: str = "", caller: Caller = ANYONE
    ) -> dict[str, Any]:
        """Tensors of a model; -1 stands for an axis that follows the bucket."""
        info = self._describe(name, version, caller)
        return {
            "name": name,
            "versions": [VERSION],
            "platform": PLATFORM,
            "inputs": [_tensor_metadata(tensor) for tensor in info.inputs],
            "outputs": [_tensor_metadata(tensor) for tensor in info.outputs],
        }

    def model_config(self, name: str, version: str = "", caller: Caller = ANYONE) -> dict[str, Any]:
        """What clients read before they send: the largest batch, and dims without batch axis."""
        info = self._describe(name, version, caller)
        return {
            "name": name,
            "platform": PLATFORM,
            "backend": PLATFORM,
            "max_batch_size": info.buckets[-1],
            "input": [_tensor_config(tensor) for tensor in info.inputs],
            "output": [_tensor_config(tensor) for tensor in info.outputs],
            "parameters": {
                "priority": {"string_value": info.priority.value},
                "tenant": {"string_value": info.tenant},
                "parameter_bytes": {"string_value": str(info.parameter_bytes)},
            },
        }

    def statistics(
        self, name: str = "", version: str = "", caller: Caller = ANYONE
    ) -> dict[str, Any]:
        """Counters of one model, or of all that there are for `caller` where no name is given."""
        models = self.runtime.stats()["models"]
        models = {key: models[key] for key in models if caller.sees(key, self._tenant(key))}
        if name:
            info = self._describe(name, version, caller)
            models = {info.name: models[name]} if name in models else {}
        return {"model_stats": [_model_statistics(key, models[key]) for key in sorted(models)]}

    def index(self, ready_only: bool = False, caller: Caller = ANYONE) -> list[dict[str, str]]:
        """Every model there is for `caller`, or those that take requests."""
        return [
            {"name": name, "version": VERSION, "state": state, "reason": reason}
            for name, state, reason in self._repository.index()
            if (state == READY or not ready_only) and caller.sees(name, self._tenant(name))
        ]

    async def load_model(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Load a configured model; one that is loaded is replaced when the new one is ready.

        parameters: of the request.

        Raises CodecError for parameters that would override the configuration, ModelNotFoundError
        for a model that is not configured, QueueFullError where too many loads wait, and
        ModelUnavailableError where it cannot be loaded.
        """
        for key in parameters or {}:
            if key == "config" or key.startswith("file:"):
                raise CodecError(
                    f"parameter {key!r} is not supported: models are as the server configures them"
                )
        self._repository.check(name)
        load = self._repository.queue(self._repository.load, name)
        try:
            await asyncio.wrap_future(load)
        except Exception as error:
            _log.error("model %r was not loaded", name, exc_info=error)
            raise ModelUnavailableError(
                f"model {name!r} was not loaded: {reason(error)}"
            ) from error

    async def unload_model(self, name: str) -> None:
        """Unload a configured model, which answers what it has.

        Raises ModelNotFoundError for a model that is not configured, QueueFullError where too many
        loads and unloads wait.
        """
        self._repository.check(name)
        await asyncio.wrap_future(self._repository.queue(self._repository.unload, name))

    def names_memory(self, body: bytes) -> bool:
        """Whether a request may have tensors in shared memory, which may be large."""
        return self.regions.on and b"shared_memory_region" in body

    def is_latency(self, name: str) -> bool:
        """Whether a model is latency-sensitive; False for one that is not there."""
        try:
            return self.runtime.describe(name).priority is Priority.LATENCY
        except (ModelNotFoundError, RuntimeClosedError):
            return False

    def regions_for(self, caller: Caller) -> Regions:
        """Those that requests may name: none for one of several callers who is not an admin.

        Who names a region reads and writes what others have there.
        """
        return self.regions if Call.ADMIN in caller.calls else OFF

    def submit(
        self,
        name: str,
        request: InferRequest,
        version: str = "",
        caller: Caller = ANYONE,
        *,
        soon: Soon | None = None,
    ) -> Pending:
        """Queue `request`.

        soon: see `Runtime.submit_tensors`; None where no other client can be about to send one.

        Raises at once what `Runtime.submit_tensors` raises for bad input, ForbiddenError where
        `caller` may not send it in its class, and CodecError for an output that the model does not
        have.
        """
        if caller is not ANYONE:
            own = self._describe(name, version, caller).priority
            caller.check_priority(own, request.priority)
        elif version and version != VERSION:
            self._describe(name, version)
        if request.outputs is not None:
            _check_outputs(request.outputs, self._describe(name, version))
        deadline_ms = None if request.timeout_us is None else request.timeout_us / 1000
        try:
            future = self.runtime.submit_tensors(
                name,
                request.inputs,
                deadline_ms=deadline_ms,
                priority=request.priority,
                soon=soon,
            )
        except ModelNotFoundError as error:
            raise self._repository.absent(name, error) from None
        except InvalidInputError:
            _check_no_bytes(name, request.inputs)
            raise
        return Pending(name, request, future)

    def _describe(self, name: str, version: str, caller: Caller = ANYONE) -> ModelInfo:
        if caller is not ANYONE:
            self._check_seen(name, caller)
        try:
            info = self.runtime.describe(name)
        except ModelNotFoundError as error:
            raise self._repository.absent(name, error) from None
        if version and version != VERSION:
            raise ModelNotFoundError(
                f"model {name!r} has no version {version!r}; it has version {VERSION!r}"
            )
        return info

    def _check_seen(self, name: str, caller: Caller) -> None:
        """Raises what names no other model: ModelNotFoundError, ModelUnavailableError."""
        tenant = self._tenant(name)
        error = ModelNotFoundError(f"no model named {name!r}")
        if not caller.sees(name, tenant):
            raise error
        if tenant is None:
            raise self._repository.absent(name, error)

    def _tenant(self, name: str) -> str | None:
        """None for a model that is not loaded."""
        try:
            return self.runtime.describe(name).tenant
        except ModelNotFoundError:
            return None


class Pending:
    """A `request` that was queued."""

    __slots__ = ("_future", "_name", "request")

    def __init__(
        self, name: str, request: InferRequest, future: Future[dict[str, np.ndarray]]
    ) -> None:
        self._name = name
        self.request = request
        self._future = future

    @property
    def phases(self) -> Phases | None:
        """Where its time went, once it has succeeded."""
        return getattr(self._future, "phases", None)

    def cancel(self) -> None:
        """Give the request up, unless it is done. May be called from any thread."""
        self._future.cancel()

    @property
    def done(self) -> bool:
        """Whether `result` is to be had without a wait."""
        return self._future.done()

    async def wait(self) -> None:
        """Until it is done. Cancelling the caller cancels the request."""
        future = self._future
        if not future.done():
            # One hop from the runtime's thread to the loop; asyncio.wrap_future takes two.
            loop = asyncio.get_running_loop()
            waiter = loop.create_future()
            future.add_done_callback(functools.partial(_wake, loop, waiter))
            try:
                await waiter
            except asyncio.CancelledError:
                future.cancel()
                raise

    def result(self) -> InferResponse:
        """The answer of a request that is `done`. Raises what the runtime's future raises."""
        outputs: Mapping[str, np.ndarray] = self._future.result()
        wanted = self.request.outputs
        if wanted is not None:
            outputs = {name: outputs[name] for name in wanted}
        return InferResponse(self._name, outputs, VERSION, self.request.id)

    async def response(self) -> InferResponse:
        """`wait`, then `result`."""
        await self.wait()
        return self.result()


def _wake(loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[None], _: Future[Any]) -> None:
    if asyncio._get_running_loop() is loop:  # it ran on this very thread
        _finish(waiter)
        return
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(_finish, waiter)


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _check_outputs(wanted: Mapping[str, bool], info: ModelInfo) -> None:
    names = [tensor.name for tensor in info.outputs]
    for name in wanted:
        if name not in names:
            raise CodecError(
                f"model {info.name!r} has no output {name!r}; it has {', '.join(map(repr, names))}"
            )


def _check_no_bytes(name: str, inputs: Mapping[str, np.ndarray]) -> None:
    for key, array in inputs.items():
        if array.dtype.hasobject:
            raise CodecError(f"model {name!r}: input {key!r} is BYTES, which no model takes")


def _tensor_metadata(tensor: TensorSpec) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "datatype": datatype_of(tensor.dtype),
        "shape": [-1 if size is None else size for size in tensor.shape],
    }


def _tensor_config(tensor: TensorSpec) -> dict[str, Any]:
    datatype = datatype_of(tensor.dtype)
    return {
        "name": tensor.name,
        "data_type": "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}",
        "dims": [-1 if size is None else size for size in tensor.shape[1:]],
    }


def _model_statistics(name: str, counters: Mapping[str, Any]) -> dict[str, Any]:
    def total(count: str, ns: str) -> dict[str, int]:
        return {"count": counters[count], "ns": counters[ns]}

    nothing = {"count": 0, "ns": 0}
    return {
        "name": name,
        "version": VERSION,
        "last_inference": counters["last_inference_ms"],
        "inference_count": counters["inference_count"],
        "execution_count": counters["execution_count"],
        "inference_stats": {
            "success": total("success_count", "success_ns"),
            "fail": total("fail_count", "fail_ns"),
            "queue": total("success_count", "queue_ns"),
            "compute_input": nothing,
            "compute_infer": total("success_count", "compute_ns"),
            "compute_output": nothing,
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [],
        "memory_usage": [],
    }
