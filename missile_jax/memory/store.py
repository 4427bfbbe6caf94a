"""Models in host memory: their parameters in groups, in the order in which they are used."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from missile_jax._native import ViewLayout


@dataclass(slots=True, eq=False, weakref_slot=True)
class Group:
    """Parameters that travel together: one copy, one block on the device.

    layout: where each parameter lies, at an aligned offset, for making views of a block.
    data: its bytes [size], as long as any model has them in host memory.
    holders: models that `Host` counts it for.
    """

    size_bytes: int
    layout: ViewLayout
    _data: weakref.ref[np.ndarray]
    holders: int = 0

    @property
    def data(self) -> np.ndarray | None:
        return self._data()

    def share(self, data: np.ndarray) -> np.ndarray:
        """The bytes that are there already; else `data`, which are the same."""
        found = self._data()
        if found is None:
            found, self._data = data, weakref.ref(data)
        return found


@dataclass(slots=True, eq=False)
class HostModel:
    """A model's parameters in host memory, or on disk to come back there.

    groups: in order of use. members: the leaf indices of each group, in the order of its layout.
    group_of: the group of each leaf; -1 for one that is in `kept` or that no plan uses.
    kept: leaves that stay on the device, by index: those of a dtype that has no plain bytes.
    data: the bytes of each group; None while only the disk has them.
    counted: whether `Host` counts it. moving: on its way to or from the disk.
    """

    name: str
    groups: tuple[Group, ...]
    members: tuple[tuple[int, ...], ...]
    group_of: tuple[int, ...]
    kept: dict[int, jax.Array]
    data: tuple[np.ndarray, ...] | None
    counted: bool = False
    moving: bool = False

    @property
    def size_bytes(self) -> int:
        return sum(group.size_bytes for group in self.groups)

    @property
    def here(self) -> bool:
        """Whether its bytes are in host memory, to stay until somebody decides otherwise."""
        return self.data is not None and not self.moving


def pageable_zeros(size_bytes: int) -> np.ndarray:
    return np.zeros(size_bytes, np.uint8)


class Store:
    """Makes host models. Equal groups, as of two fine-tunes of one backbone, lie once.

    group_bytes: a group is closed once it is as large: the size from which on a copy is no faster
        (Torpor, arXiv:2306.03622, section on grouping).
    alignment: of parameters inside of a group.
    zeros: makes host memory [n] uint8 of zeros.
    """

    def __init__(
        self,
        group_bytes: int,
        alignment: int,
        zeros: Callable[[int], np.ndarray] = pageable_zeros,
    ) -> None:
        self._group_bytes = group_bytes
        self._alignment = alignment
        self._zeros = zeros
        self._groups: weakref.WeakValueDictionary[bytes, Group] = weakref.WeakValueDictionary()
        self._layouts: weakref.WeakValueDictionary[Any, ViewLayout] = weakref.WeakValueDictionary()

    def put(self, name: str, leaves: Sequence[jax.Array], order: Sequence[int]) -> HostModel:
        """Copies `leaves` to the host, grouped in `order` of use. One call at a time.

        order: indices into `leaves`, each once; leaves that are not in it are not kept.
        """
        kept = {i: leaves[i] for i in order if not _plain(leaves[i])}
        sizes = [x.nbytes for x in leaves]
        moving = [i for i in order if i not in kept]
        members = grouped(sizes, moving, self._group_bytes, self._alignment)
        held = [self._hold([np.asarray(leaves[i]) for i in group]) for group in members]
        group_of = [-1] * len(leaves)
        for k, group in enumerate(members):
            for i in group:
                group_of[i] = k
        groups, data = tuple(g for g, _ in held), tuple(d for _, d in held)
        return HostModel(name, groups, members, tuple(group_of), kept, data)

    def _hold(self, arrays: Sequence[np.ndarray]) -> tuple[Group, np.ndarray]:
        offsets, end = [], 0
        for array in arrays:
            offsets.append(end)
            end = _rounded(end + array.nbytes, self._alignment)
        data = self._zeros(end)
        digest = hashlib.blake2b(digest_size=20)
        for offset, array in zip(offsets, arrays, strict=True):
            data[offset : offset + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
            digest.update(repr((offset, array.shape, array.dtype.name)).encode())
        digest.update(data.data)
        key = digest.digest()
        group = self._groups.get(key)
        if group is None:
            entries = tuple((o, a.shape, a.dtype) for o, a in zip(offsets, arrays, strict=True))
            group = self._groups[key] = Group(end, self._layout(entries), weakref.ref(data))
        return group, group.share(data)

    def _layout(self, entries: tuple[tuple[int, tuple[int, ...], np.dtype], ...]) -> ViewLayout:
        """The same object for equal ones, so that arrays can be used again; see `ParkedArrays`."""
        layout = self._layouts.get(entries)
        if layout is None:
            layout = self._layouts[entries] = ViewLayout(entries)
        return layout


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
