"""The fake CUDA driver of tests/fake_cuda, as Python's tests use it."""

from __future__ import annotations

import ctypes
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from missile_jax import _native

SOURCE = Path(__file__).parents[1] / "fake_cuda" / "fake_cuda.cc"
PATIENCE_S = 60.0


def build(path: Path) -> None:
    command = ["c++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-shared"]
    subprocess.run([*command, "-fPIC", str(SOURCE), "-o", str(path)], check=True)


class FakeDriver:
    """One copy of the library, with a state of its own. See fake_cuda.cc."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.library = ctypes.CDLL(self.path)
        self.library.fakeLeaks.restype = ctypes.c_char_p
        self.library.fakeMisuse.restype = ctypes.c_char_p
        self.library.fakeUnpinnedCopies.restype = ctypes.c_uint64

    def device(self, ordinal: int = 0) -> _native.CudaDevice:
        return _native.CudaDevice(ordinal, self.path)

    def fail(self, call: str, nth: int, code: int = 700) -> None:
        """Lets the n-th call from now fail; with 0, none."""
        self.library.fakeFail(call.encode(), nth, code)

    def calls(self, call: str) -> int:
        return self.library.fakeCalls(call.encode())

    def limit(self, size_bytes: int) -> None:
        self.library.fakeLimit(ctypes.c_uint64(size_bytes))

    def delays(self, seed: int, most_us: int) -> None:
        self.library.fakeDelays(seed, most_us)

    @property
    def unpinned_copies(self) -> int:
        return self.library.fakeUnpinnedCopies()

    def leaks(self) -> str:
        return self.library.fakeLeaks().decode()

    def misuse(self) -> str:
        return self.library.fakeMisuse().decode()

    @contextmanager
    def held(self) -> Iterator[None]:
        """No stream begins anything meanwhile."""
        self.library.fakeHold(None, 1)
        try:
            yield
        finally:
            self.library.fakeHold(None, 0)

    @contextmanager
    def compute(self, ordinal: int = 0) -> Iterator[ComputeStream]:
        """A stream as XLA has one, in the same primary context."""
        context, handle = ctypes.c_void_p(), ctypes.c_void_p()
        self._do("cuInit", 0)
        self._do("cuDevicePrimaryCtxRetain", ctypes.byref(context), ordinal)
        with self._current(context):
            self._do("cuStreamCreate", ctypes.byref(handle), 1)
        try:
            yield ComputeStream(self, context, handle)
        finally:
            with self._current(context):
                self._do("cuStreamDestroy_v2", handle)
            self._do("cuDevicePrimaryCtxRelease_v2", ordinal)

    @contextmanager
    def _current(self, context: ctypes.c_void_p) -> Iterator[None]:
        self._do("cuCtxPushCurrent_v2", context)
        try:
            yield
        finally:
            self._do("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def _do(self, call: str, *arguments: object) -> None:
        result = getattr(self.library, call)(*arguments)
        assert result == 0, f"{call}: {result}"


class ComputeStream:
    """Runs launches in order, late."""

    def __init__(
        self, driver: FakeDriver, context: ctypes.c_void_p, handle: ctypes.c_void_p
    ) -> None:
        self._driver, self._context, self._handle = driver, context, handle

    def launch_sum(self, address: int, size_bytes: int) -> ctypes.c_uint64:
        """A kernel that adds up bytes when it runs. The sum is there after `synchronize()`."""
        total = ctypes.c_uint64()
        arguments = (ctypes.c_uint64(address), ctypes.c_size_t(size_bytes), ctypes.byref(total))
        with self._driver._current(self._context):
            self._driver._do("fakeSum", self._handle, *arguments)
        return total

    def launch_add(self, to: int, of: int, size_bytes: int, value: int) -> None:
        """A kernel that writes the bytes at `of`, each with `value` added, to `to`."""
        arguments = (ctypes.c_uint64(to), ctypes.c_uint64(of), ctypes.c_size_t(size_bytes), value)
        with self._driver._current(self._context):
            self._driver._do("fakeAdd", self._handle, *arguments)

    def hold(self) -> None:
        """Begins nothing until `let_go()`."""
        self._driver.library.fakeHold(self._handle, 1)

    def let_go(self) -> None:
        self._driver.library.fakeHold(self._handle, 0)

    def synchronize(self) -> None:
        with self._driver._current(self._context):
            self._driver._do("cuStreamSynchronize", self._handle)


class DLTensor(ctypes.Structure):
    """DLPack's struct, as far as a view fills it."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )


def tensor_of(capsule: Any) -> DLTensor:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return DLTensor.from_address(get(capsule, b"dltensor"))


def pinned(device: _native.CudaDevice, content: np.ndarray) -> np.ndarray:
    """A copy in pinned memory."""
    copy = np.frombuffer(device.pinned(content.nbytes), content.dtype).reshape(content.shape)
    copy[...] = content
    return copy


class Bus:
    """A link each way, for tests that only want bytes there and back."""

    def __init__(self, device: _native.CudaDevice) -> None:
        self._up = _native.Link(cuda=device)
        self._down = _native.Link(cuda=device, to_host=True)
        self._flows = (self._up.flow("test"), self._down.flow("test"))

    def write(self, block: _native.Block, content: np.ndarray) -> None:
        at = (block.address, block)
        finish(self._flows[0].copy(at, 0, content, 0, content.nbytes))

    def read(self, block: _native.Block) -> np.ndarray:
        content = np.empty(block.size_bytes, np.uint8)
        at = (block.address, block)
        finish(self._flows[1].copy(content, 0, at, 0, content.nbytes))
        return content

    def close(self) -> None:
        self._up.close()
        self._down.close()


def until(condition: Callable[[], object]) -> None:
    """What another thread brings about, and nobody tells."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0)


def finish(copy: _native.Copy) -> None:
    """Raises RuntimeError for a copy that failed."""
    assert copy.wait(PATIENCE_S)
    if copy.error is not None:
        raise RuntimeError(copy.error)
