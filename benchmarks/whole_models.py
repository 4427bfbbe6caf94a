"""Device memory without a runtime: a model is on the device as a whole or not at all."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from missile_jax.program.bind import bind
from missile_jax.program.checkpoint import read
from missile_jax.program.compile import Executable, compile_flat
from missile_jax.program.trace import trace
from missile_jax.spec import Model


@dataclass(frozen=True, slots=True)
class Stored:
    """A model that waits for calls. whole: of all its parameters as they are, then the inputs."""

    whole: Executable
    checkpoint: Path
    size_bytes: int


def compiled(model: Model) -> Executable:
    """The whole of `model` on its example, for the default device, compiled as a runtime does."""
    fn, params = bind(model)
    traced = trace(fn, params, model.example)
    if traced.hoisted:
        raise ValueError(f"model {model.name!r} closes over arrays, which no checkpoint has")
    return compile_flat(traced.jaxpr, jax.devices()[0])


class WholeModels:
    """Models on a device of `limit_bytes`; one thread serves calls in order of arrival.

    A model that is called and not there is loaded from its checkpoint by `jax.device_put`, and the
    least recently used ones leave for it.

    busy_s: what calls took, loading included. loads: how many of them had to load.
    """

    def __init__(self, models: Mapping[str, Stored], limit_bytes: int) -> None:
        self._models = models
        self._limit_bytes = limit_bytes
        self._loaded: OrderedDict[str, list[jax.Array]] = OrderedDict()
        self._held_bytes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="whole-models")
        self.busy_s = 0.0
        self.loads = 0

    def submit(self, name: str, inputs: Any) -> Future:
        """The future of the result's leaves."""
        return self._thread.submit(self._run, name, jax.tree.leaves(inputs))

    def close(self) -> None:
        self._thread.shutdown()
        self._loaded.clear()

    def _run(self, name: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        start_s = time.perf_counter()
        if name not in self._loaded:
            self._load(name)
        self._loaded.move_to_end(name)
        results = self._models[name].whole.call(*self._loaded[name], *inputs)
        answer = [np.asarray(result) for result in results]
        self.busy_s += time.perf_counter() - start_s
        return answer

    def _load(self, name: str) -> None:
        stored = self._models[name]
        self._held_bytes += stored.size_bytes
        while self._loaded and self._held_bytes > self._limit_bytes:
            old, _ = self._loaded.popitem(last=False)
            self._held_bytes -= self._models[old].size_bytes
        leaves = jax.tree.leaves(read(name, stored.checkpoint))
        # A copy, also where host memory would do: a device's memory is its own.
        self._loaded[name] = jax.block_until_ready(jax.device_put(leaves, may_alias=False))
        self.loads += 1
