"""Models in host memory: their parameters in groups, in the order in which they are used."""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from missile_jax._native import ViewLayout
from missile_jax.errors import HostMemoryError


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Group:
    """Parameters that travel together: one copy, one block on the device.

    data: their bytes [size], each parameter at an aligned offset.
    layout: where each lies, for making views of a block.
    """

    data: np.ndarray
    layout: ViewLayout

    @property
    def size_bytes(self) -> int:
        return self.data.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class HostModel:
    """A model's parameters in host memory.

    groups: in order of use. members: the leaf indices of each group, in the order of its layout.
    group_of: the group of each leaf; -1 for one that is in `kept` or that no plan uses.
    kept: leaves that stay on the device, by index: those of a dtype that has no plain bytes.
    """

    groups: tuple[Group, ...]
    members: tuple[tuple[int, ...], ...]
    group_of: tuple[int, ...]
    kept: dict[int, jax.Array] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return sum(group.size_bytes for group in self.groups)


class Store:
    """Host memory of a limited size. Equal groups, as of two fine-tunes of one backbone, lie once.

    group_bytes: a group is closed once it is as large: the size from which on a copy is no faster
        (Torpor, arXiv:2306.03622, section on grouping).
    limit_bytes: None for no limit.
    alignment: of parameters inside of a group.
    """

    def __init__(self, group_bytes: int, alignment: int, limit_bytes: int | None = None) -> None:
        self._group_bytes = group_bytes
        self._alignment = alignment
        self._limit_bytes = limit_bytes
        self._groups: weakref.WeakValueDictionary[bytes, Group] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Bytes held, equal groups counted once."""
        return sum(group.size_bytes for group in list(self._groups.values()))

    def put(self, name: str, leaves: Sequence[jax.Array], order: Sequence[int]) -> HostModel:
        """Copies `leaves` to the host, grouped in `order` of use.

        order: indices into `leaves`, each once; leaves that are not in it are not kept.

        Raises HostMemoryError if they do not fit.
        """
        kept = {i: leaves[i] for i in order if not _plain(leaves[i])}
        sizes = [x.nbytes for x in leaves]
        moving = [i for i in order if i not in kept]
        members = grouped(sizes, moving, self._group_bytes, self._alignment)
        with self._lock:
            groups = [self._hold(name, [np.asarray(leaves[i]) for i in group]) for group in members]
        group_of = [-1] * len(leaves)
        for k, group in enumerate(members):
            for i in group:
                group_of[i] = k
        return HostModel(tuple(groups), members, tuple(group_of), kept)

    def _hold(self, name: str, arrays: Sequence[np.ndarray]) -> Group:
        offsets, end = [], 0
        for array in arrays:
            offsets.append(end)
            end = _rounded(end + array.nbytes, self._alignment)
        data = np.zeros(end, np.uint8)
        digest = hashlib.blake2b(digest_size=20)
        for offset, array in zip(offsets, arrays, strict=True):
            data[offset : offset + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
            digest.update(repr((offset, array.shape, array.dtype.name)).encode())
        digest.update(data.data)
        key = digest.digest()
        found = self._groups.get(key)
        if found is not None:
            return found
        held = self.size_bytes
        if self._limit_bytes is not None and held + end > self._limit_bytes:
            raise HostMemoryError(
                f"model {name!r}: its parameters do not fit into host memory: {held + end} bytes "
                f"would be held, host_memory allows {self._limit_bytes}"
            )
        entries = [(o, a.shape, a.dtype) for o, a in zip(offsets, arrays, strict=True)]
        group = Group(data, ViewLayout(entries))
        self._groups[key] = group
        return group


def grouped(
    sizes_bytes: Sequence[int], order: Iterable[int], group_bytes: int, alignment: int
) -> tuple[tuple[int, ...], ...]:
    """Which parameters travel together: in `order`, until a group has `group_bytes`."""
    groups: list[list[int]] = []
    filled = group_bytes
    for i in order:
        # A large parameter goes alone rather than behind a group that has begun.
        if filled >= group_bytes or filled + sizes_bytes[i] > 2 * group_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(i)
        filled += _rounded(sizes_bytes[i], alignment)
    return tuple(map(tuple, groups))


def _rounded(size_bytes: int, alignment: int) -> int:
    return -(-size_bytes // alignment) * alignment


def _plain(leaf: Any) -> bool:
    """Whether a leaf has bytes that a view can be made of.

    Random keys, and numbers of 8 bits or fewer that are no integers of 8, have not.
    """
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended) or not leaf.nbytes:
        return False
    dtype = np.dtype(leaf.dtype)
    if dtype.name.startswith("float8"):
        return False
    return dtype.kind in "biufc" or dtype.name == "bfloat16"
