"""What a front end may ask of a `Runtime`, in the protocol's words and without a transport.

Each method gives plain values for a front end to encode. Every model has one version, ``"1"``. A
model or version that is not there raises ModelNotFoundError.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Mapping
from concurrent.futures import Future
from importlib.metadata import version as installed_version
from typing import Any

import numpy as np

from missile_jax.engine.request import Phases
from missile_jax.errors import ModelNotFoundError, RuntimeClosedError
from missile_jax.runtime import Runtime
from missile_jax.server.codec import InferRequest, InferResponse
from missile_jax.server.tensors import CodecError, datatype_of
from missile_jax.spec import ModelInfo, TensorSpec

VERSION = "1"
PLATFORM = "missile_jax"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")


class Dataplane:
    """One runtime, asked in the protocol's words."""

    __slots__ = ("_runtime",)

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def ready(self) -> bool:
        """Whether every loaded model takes requests."""
        try:
            for name in self._runtime.models():
                self._runtime.describe(name)
        except RuntimeClosedError:
            return False
        except ModelNotFoundError:
            pass  # unloaded since: not to be waited for
        return True

    def model_ready(self, name: str, version: str = "") -> bool:
        """True for a loaded model; raises ModelNotFoundError for any other."""
        self._describe(name, version)
        return True

    def server_metadata(self) -> dict[str, Any]:
        """Name, version and extensions of this server."""
        return {
            "name": "missile-jax",
            "version": installed_version("missile-jax"),
            "extensions": EXTENSIONS,
        }

    def model_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """Tensors of a model; -1 stands for an axis that follows the bucket."""
        info = self._describe(name, version)
        return {
            "name": name,
            "versions": [VERSION],
            "platform": PLATFORM,
            "inputs": [_tensor_metadata(tensor) for tensor in info.inputs],
            "outputs": [_tensor_metadata(tensor) for tensor in info.outputs],
        }

    def model_config(self, name: str, version: str = "") -> dict[str, Any]:
        """What clients read before they send: the largest batch, and dims without batch axis."""
        info = self._describe(name, version)
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

    def statistics(self, name: str = "", version: str = "") -> dict[str, Any]:
        """Counters of one model, or of all where no name is given."""
        models = self._runtime.stats()["models"]
        if name:
            info = self._describe(name, version)
            models = {info.name: models[name]} if name in models else {}
        return {"model_stats": [_model_statistics(key, models[key]) for key in sorted(models)]}

    def index(self) -> list[dict[str, str]]:
        """Every model there is."""
        return [
            {"name": name, "version": VERSION, "state": "READY", "reason": ""}
            for name in sorted(self._runtime.models())
        ]

    def submit(self, name: str, request: InferRequest, version: str = "") -> Pending:
        """Queue `request`.

        Raises at once what `Runtime.submit_tensors` raises for bad input, and CodecError for an
        output that the model does not have.
        """
        if version and version != VERSION:
            self._describe(name, version)
        if request.outputs is not None:
            _check_outputs(request.outputs, self._runtime.describe(name))
        deadline_ms = None if request.timeout_us is None else request.timeout_us / 1000
        future = self._runtime.submit_tensors(name, request.inputs, deadline_ms=deadline_ms)
        return Pending(name, request, future)

    async def infer(self, name: str, request: InferRequest, version: str = "") -> InferResponse:
        """`submit` and wait."""
        return await self.submit(name, request, version).response()

    def _describe(self, name: str, version: str) -> ModelInfo:
        info = self._runtime.describe(name)
        if version and version != VERSION:
            raise ModelNotFoundError(
                f"model {name!r} has no version {version!r}; it has version {VERSION!r}"
            )
        return info


class Pending:
    """A request that was queued."""

    __slots__ = ("_future", "_name", "_request")

    def __init__(
        self, name: str, request: InferRequest, future: Future[dict[str, np.ndarray]]
    ) -> None:
        self._name = name
        self._request = request
        self._future = future

    @property
    def phases(self) -> Phases | None:
        """Where its time went, once it has succeeded."""
        return getattr(self._future, "phases", None)

    def cancel(self) -> None:
        """Give the request up, unless it runs or is done. May be called from any thread."""
        self._future.cancel()

    async def response(self) -> InferResponse:
        """Wait for the answer, and raise what the runtime's future raises.

        Cancelling the caller cancels the request.
        """
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
        outputs: Mapping[str, np.ndarray] = future.result()
        wanted = self._request.outputs
        if wanted is not None:
            outputs = {name: outputs[name] for name in wanted}
        return InferResponse(self._name, outputs, VERSION, self._request.id)


def _wake(loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[None], _: Future[Any]) -> None:
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
