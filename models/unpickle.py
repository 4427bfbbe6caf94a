"""Reads weight files that are pickles, without running what is in them.

A pickle is a program: it may name any function of any module and have it called. The two readers
here know the handful of names that arrays need and refuse every other one. None of those names
stands for an object of numpy, since a pickle may also set the state of what it is given.

`.pth` files come in two forms. Only the older one, a row of pickles followed by raw storages
(torch before 1.6), is read: the files of the zoo are all of that form.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from missile_jax.errors import MissileError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


class UnsafePickleError(MissileError, pickle.UnpicklingError):
    """A pickle asks for something that is no array, or is damaged."""


def load_torch(path: Path) -> dict[str, np.ndarray]:
    """The state dict of a legacy `.pth` file: {parameter name: array in torch's axis order}.

    Raises UnsafePickleError where the file is damaged, of another form, or holds anything else
    than float32 and int64 tensors.
    """
    file = io.BytesIO(path.read_bytes())
    unpickler = _Torch(file)
    try:
        head = [_Restricted(file, {}).load() for _ in range(3)]
        if head[:2] != [_MAGIC, _PROTOCOL]:
            raise UnsafePickleError(f"{path.name} is no legacy .pth file: it starts with {head!r}")
        state = unpickler.load()
        for key in _Restricted(file, {}).load():
            _fill(file, unpickler.storages.pop(key))
    except UnsafePickleError:
        raise
    except Exception as error:  # a damaged pickle may raise almost anything
        raise UnsafePickleError(f"{path.name} is damaged: {error!r}") from error
    if unpickler.storages:
        raise UnsafePickleError(f"{path.name} lacks the storages {sorted(unpickler.storages)}")
    if not isinstance(state, OrderedDict):
        raise UnsafePickleError(f"{path.name} holds {type(state).__name__}, not a state dict")
    for name, value in state.items():
        if not isinstance(value, np.ndarray):
            raise UnsafePickleError(f"{path.name}: {name!r} is {type(value).__name__}, no tensor")
    return dict(state)


def load_numpy(path: Path) -> Any:
    """The dicts and lists of float arrays in a `.pkl` file that numpy 1 wrote.

    Raises UnsafePickleError where the file is damaged or holds anything else.
    """
    allowed = {
        "numpy.core.multiarray._reconstruct": _Array,
        "numpy.ndarray": "ndarray",
        "numpy.dtype": _Dtype,
    }
    try:
        return _arrays(_Restricted(io.BytesIO(path.read_bytes()), allowed).load())
    except UnsafePickleError:
        raise
    except Exception as error:  # a damaged pickle may raise almost anything
        raise UnsafePickleError(f"{path.name} is damaged: {error!r}") from error


class _Restricted(pickle.Unpickler):
    """Resolves the globals of `allowed` ({"module.name": object}) and refuses all others."""

    def __init__(self, file: io.BytesIO, allowed: Mapping[str, Any]):
        super().__init__(file)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[f"{module}.{name}"]
        except KeyError:
            allowed = ", ".join(sorted(self._allowed)) or "none"
            raise UnsafePickleError(
                f"the pickle asks for the global {module}.{name}, which is refused; "
                f"allowed: {allowed}"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError(f"the pickle refers to {pid!r} outside itself, which is refused")


class _Storage(NamedTuple):
    """A flat array. It is filled after the tensors over it are made, as its bytes come last."""

    key: str
    array: np.ndarray


class _Torch(_Restricted):
    """Also resolves references to storages."""

    def __init__(self, file: io.BytesIO):
        super().__init__(
            file,
            {
                "collections.OrderedDict": OrderedDict,
                "torch._utils._rebuild_tensor_v2": _tensor,
                "torch.FloatStorage": "<f4",
                "torch.LongStorage": "<i8",
            },
        )
        self._limit_bytes = len(file.getbuffer())
        self.storages: dict[str, _Storage] = {}

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", "<f4" | "<i8" as code, str(key), str(), int(count), None):
                dtype = np.dtype(code)
            case _:
                raise UnsafePickleError(f"{pid!r} is refused; allowed: float32 and int64 storages")
        if not 0 <= count * dtype.itemsize <= self._limit_bytes:
            raise UnsafePickleError(
                f"storage {key!r} claims {count} elements of {dtype}; the whole file has "
                f"{self._limit_bytes} bytes"
            )
        if key not in self.storages:
            self.storages[key] = _Storage(key, np.zeros(count, dtype))
        return self.storages[key]


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> np.ndarray:
    if not isinstance(storage, _Storage) or len(size) != len(stride):
        raise UnsafePickleError(f"a tensor over {storage!r}, size {size}, stride {stride}")
    flat = storage.array
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    empty = math.prod(size) == 0
    if min(offset, *size, *stride, 0) < 0 or (not empty and last >= flat.size):
        raise UnsafePickleError(
            f"a tensor of size {size}, stride {stride} at {offset} leaves its storage "
            f"of {flat.size} elements"
        )
    strides = [step * flat.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(flat[offset:], size, strides)


def _fill(file: io.BytesIO, storage: _Storage) -> None:
    key, flat = storage
    count = int.from_bytes(file.read(8), "little")
    data = file.read(flat.nbytes)
    if count != flat.size or len(data) != flat.nbytes:
        raise UnsafePickleError(
            f"storage {key!r} has {len(data)} bytes for {count} elements, "
            f"expected {flat.nbytes} for {flat.size}"
        )
    flat[:] = np.frombuffer(data, flat.dtype)


class _Dtype:
    """Stands for a numpy dtype while a pickle is read."""

    def __init__(self, code: Any, *_: Any):
        if code not in ("f2", "f4", "f8"):
            raise UnsafePickleError(f"arrays of dtype {code!r} are refused; allowed: floats")
        self.code = code

    def __setstate__(self, state: Any) -> None:
        if state[:2] != (3, "<"):
            raise UnsafePickleError(f"a dtype of state {state!r} is refused")


class _Array:
    """Stands for a numpy array while a pickle is read."""

    def __init__(self, *_: Any):
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype):
            raise UnsafePickleError(f"an array of dtype {dtype!r} is refused")
        flat = np.frombuffer(data, np.dtype(f"<{dtype.code}"))
        self.value = flat.reshape(shape, order="F" if fortran else "C").copy()


def _arrays(tree: Any) -> Any:
    match tree:
        case dict():
            return {str(key): _arrays(value) for key, value in tree.items()}
        case list():
            return [_arrays(value) for value in tree]
        case _Array(value=np.ndarray() as array):
            return array
    raise UnsafePickleError(f"{type(tree).__name__} is refused; allowed: dict, list, array")
