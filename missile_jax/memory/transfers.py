"""Inputs and results of requests over the link, in turns of their model's tenant and class."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from missile_jax._native import Arena, Block, Copy, Flow, ViewLayout, staging_like
from missile_jax.errors import DeviceMemoryError, RuntimeClosedError
from missile_jax.memory.flows import Flows
from missile_jax.program.transfers import XlaTransfers
from missile_jax.spec import ModelInfo, Priority

# From here on the link copies: to wake its thread takes as long as to copy 64 KiB, and what is
# smaller holds up nobody for longer than a chunk of the link does.
_OVER_THE_LINK_BYTES = 1 << 20
# Shapes that clients choose come in few buckets.
_MOST_LAYOUTS = 1024


class LinkTransfers(XlaTransfers):
    """Where the device is the host: large inputs are staged by the link, results lie there."""

    def __init__(self, info: ModelInfo, flows: Flows) -> None:
        self._model = info.name
        self._flows = flows
        self._whose = (info.tenant, info.priority is Priority.LATENCY)

    def stage(self, array: np.ndarray) -> np.ndarray:
        """Raises RuntimeClosedError."""
        if array.nbytes < _OVER_THE_LINK_BYTES:
            return super().stage(array)
        staged = staging_like(array)
        copy = self._copy(self._flows.to_device, _place(staged), _place(array), array.nbytes)
        copy.wait()
        if copy.error is not None:
            raise RuntimeClosedError(f"model {self._model!r}: {copy.error}")
        return staged

    def _copy(
        self,
        direction: Callable[[str, bool], Flow],
        to: tuple[int, object],
        of: tuple[int, object],
        size_bytes: int,
    ) -> Copy:
        """Both ends are held until the copy has ended, well or not."""
        try:
            return direction(*self._whose).copy(to, 0, of, 0, size_bytes)
        except RuntimeError as error:
            raise RuntimeClosedError(f"model {self._model!r}: {error}") from None


class Room:
    """Where inputs and results of requests lie beside the parameters of a GPU. Thread-safe.

    device: for inputs. pinned: of the host's memory, for inputs and results. Either may be full.
    """

    def __init__(self, device: Arena, pinned: Arena) -> None:
        self._device, self._pinned = device, pinned
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def on_device(self, size_bytes: int) -> Block | None:
        return _take(self._device, size_bytes)

    def on_host(self, like: Any) -> np.ndarray | None:
        """Pinned memory for an array as `like`, taken until the last array that shows it ends."""
        block = _take(self._pinned, like.nbytes)
        if block is None:
            self.count("unpinned")
            return None
        return block.array(0, (like.nbytes,), np.uint8).view(like.dtype).reshape(like.shape)

    def count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def stats(self) -> dict[str, int]:
        """inputs, results: that the link copied. inputs_by_xla: large ones that it would have, had
        there been room. unpinned: large ones that found no room in pinned memory."""
        whats = ("inputs", "results", "inputs_by_xla", "unpinned")
        with self._lock:
            return {what: self._counts[what] for what in whats}


class CudaTransfers(LinkTransfers):
    """Large inputs are staged in pinned memory, and copied to the device before their launch; large
    results are copied to pinned memory after it. Where that is full the link's own buffers serve,
    and where there is no room on the device, XLA.

    make: an array of a DLPack capsule.
    """

    def __init__(
        self, info: ModelInfo, flows: Flows, room: Room, make: Callable[[Any], jax.Array]
    ) -> None:
        super().__init__(info, flows)
        self._room = room
        self._make = make

    def stage(self, array: np.ndarray) -> np.ndarray:
        staged = None
        if array.nbytes >= _OVER_THE_LINK_BYTES:
            staged = self._room.on_host(array)
        if staged is None:
            return XlaTransfers.stage(self, array)
        staged[:] = array
        return staged

    def to_device(self, inputs: Sequence[np.ndarray]) -> tuple[Sequence[Any], dict[int, Block]]:
        """Raises DeviceMemoryError, RuntimeClosedError."""
        blocks: dict[int, Block] = {}
        copies = []
        for k, array in enumerate(inputs):
            if not _goes_over_the_link(array):
                continue
            block = self._room.on_device(array.nbytes)
            if block is None:
                self._room.count("inputs_by_xla")
                continue
            self._room.count("inputs")
            blocks[k], to = block, (block.address, block)
            copies.append(self._copy(self._flows.to_device, to, _place(array), array.nbytes))
        self._wait(copies, "its inputs did not reach the device")
        arrays: list[Any] = list(inputs)
        for k, block in blocks.items():
            layout = _layout(inputs[k].shape, inputs[k].dtype)
            assert layout is not None
            (arrays[k],) = block.views(layout, self._make)
        return arrays, blocks

    def to_host(self, results: Sequence[Any]) -> list[np.ndarray]:
        """Raises DeviceMemoryError, RuntimeClosedError."""
        arrays, copies = list(results), []
        for k, result in enumerate(results):
            if isinstance(result, np.ndarray) or not _goes_over_the_link(result):
                continue
            self._room.count("results")
            array = self._room.on_host(result)
            if array is None:
                array = np.empty(result.shape, result.dtype)
            of = (result.unsafe_buffer_pointer(), result)
            copies.append(self._copy(self._flows.to_host, _place(array), of, result.nbytes))
            array.flags.writeable = False
            arrays[k] = array
        arrays = super().to_host(arrays)  # Those that are small.
        self._wait(copies, "its results did not reach the host")
        return arrays

    def _wait(self, copies: Sequence[Copy], failure: str) -> None:
        for copy in copies:
            copy.wait()
        errors = [copy.error for copy in copies if copy.error is not None]
        if errors:
            raise DeviceMemoryError(f"model {self._model!r}: {failure}: {errors[0]}")


def _goes_over_the_link(array: Any) -> bool:
    """An array of the host's or a device's, whose bytes are the same on both."""
    return array.nbytes >= _OVER_THE_LINK_BYTES and _layout(array.shape, array.dtype) is not None


@lru_cache(maxsize=_MOST_LAYOUTS)
def _layout(shape: tuple[int, ...], dtype: np.dtype) -> ViewLayout | None:
    """None for a dtype that has no views."""
    try:
        return ViewLayout([(0, shape, dtype)])
    except ValueError:
        return None


def _take(arena: Arena, size_bytes: int) -> Block | None:
    return arena.allocate(size_bytes) if size_bytes <= arena.size_bytes else None


def _place(array: np.ndarray) -> tuple[int, np.ndarray]:
    # Not the buffer protocol: numpy has none for bfloat16.
    return array.ctypes.data, array
