"""Models in host memory: their parameters in groups, in the order in which they are used."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import jax
import numpy as np

from missile_jax._native import ViewLayout


@dataclass(slots=True, eq=False, weakref_slot=True)
class Group:
    """Parameters that travel together: one copy, one block on the device.

    layout: where each parameter lies, at an aligned offset, for making views of a block.
    leaves: a digest of each parameter, in that order. offsets: where each begins.
    data: its bytes [size], as long as any model has them in host memory; own_data: only if they
        are no part of another group's.
    whole, start: the group whose bytes these are a part of, from `start` on; None for one that
        is a part of none.
    holders: models, or parts that lie in it, that `Host` counts it for. inside: whether it is
        counted with `whole`, which it lies in.
    """

    size_bytes: int
    layout: ViewLayout
    leaves: tuple[bytes, ...]
    offsets: tuple[int, ...]
    whole: Group | None = None
    start: int = 0
    holders: int = 0
    inside: bool = False
    _data: weakref.ref[np.ndarray] | None = None

    @property
    def own_data(self) -> np.ndarray | None:
        return None if self._data is None else self._data()

    @property
    def data(self) -> np.ndarray | None:
        own = self.own_data
        if own is not None or self.whole is None:
            return own
        whole = self.whole.data
        return None if whole is None else whole[self.start : self.start + self.size_bytes]

    @property
    def counted_data(self) -> np.ndarray | None:
        """Without those of a group that it is not counted with: whoever had that one has left."""
        return self.data if self.inside else self.own_data

    def share(self, data: np.ndarray) -> np.ndarray:
        """The bytes of its own that are there already; else `data`, which are the same."""
        found = self.own_data
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
    """Makes host models. Equal parameters, as of two fine-tunes of one backbone, lie once.

    A model is laid out around what is there: where a run of its parameters is one of a group that
    the store has, that run is a group of its own, whose bytes are a part of the other's. Runs
    shorter than an eighth of a group are not looked for: a copy for each would cost more.

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
        self._groups: weakref.WeakValueDictionary[tuple[bytes, ...], Group] = (
            weakref.WeakValueDictionary()
        )
        # By each parameter that is large enough to tell a run by.
        self._landmarks: weakref.WeakValueDictionary[bytes, Group] = weakref.WeakValueDictionary()
        self._layouts: weakref.WeakValueDictionary[Any, ViewLayout] = weakref.WeakValueDictionary()

    def put(self, name: str, leaves: Sequence[jax.Array], order: Sequence[int]) -> HostModel:
        """Copies `leaves` to the host, grouped in `order` of use. One call at a time.

        order: indices into `leaves`, each once; leaves that are not in it are not kept.
        """
        kept = {i: leaves[i] for i in order if not _plain(leaves[i])}
        moving = [i for i in order if i not in kept]
        arrays = [np.asarray(leaves[i]) for i in moving]
        digests = tuple(map(_digest, arrays))
        members, groups, data = [], [], []
        group_of = [-1] * len(leaves)
        for span in self._spans(digests, [array.nbytes for array in arrays]):
            at = slice(span.begin, span.end)
            groups.append(self._group(digests[at], arrays[at], span))
            data.append(self._bytes(groups[-1], arrays[at]))
            members.append(tuple(moving[at]))
            for i in moving[at]:
                group_of[i] = len(groups) - 1
        return HostModel(name, tuple(groups), tuple(members), tuple(group_of), kept, tuple(data))

    def _spans(self, digests: Sequence[bytes], sizes_bytes: Sequence[int]) -> Iterator[_Span]:
        """What is to be a group, in order: runs that are there, and groups of what is between."""
        begin = 0
        for run in (*self._runs(digests), _Span(len(digests), len(digests))):
            fresh = range(begin, run.begin)
            for group in grouped(sizes_bytes, fresh, self._group_bytes, self._alignment):
                yield _Span(group[0], group[-1] + 1)
            if run.whole is not None:
                yield run
            begin = run.end

    def _runs(self, digests: Sequence[bytes]) -> Iterator[_Span]:
        at = free = 0
        while at < len(digests):
            group = self._landmarks.get(digests[at])
            run = None if group is None else _longest(group, digests, free, at)
            if run is not None and 8 * run.shared_bytes >= self._group_bytes:
                yield run
                at = free = run.end
            else:
                at += 1

    def _group(self, leaves: tuple[bytes, ...], arrays: Sequence[np.ndarray], span: _Span) -> Group:
        group = self._groups.get(leaves)
        if group is not None:
            return group
        *offsets, end = accumulate(
            (_rounded(array.nbytes, self._alignment) for array in arrays), initial=0
        )
        entries = tuple((o, a.shape, a.dtype) for o, a in zip(offsets, arrays, strict=True))
        group = Group(end, self._layout(entries), leaves, tuple(offsets))
        self._groups[leaves] = group
        if span.whole is not None:
            group.whole, group.start = span.whole, span.whole.offsets[span.first]
            return group
        for array, leaf in zip(arrays, leaves, strict=True):
            if 32 * array.nbytes >= self._group_bytes:
                self._landmarks[leaf] = group
        return group

    def _bytes(self, group: Group, arrays: Sequence[np.ndarray]) -> np.ndarray:
        found = group.data
        if found is not None:
            return found
        data = self._zeros(group.size_bytes)
        for offset, array in zip(group.offsets, arrays, strict=True):
            data[offset : offset + array.nbytes] = _flat(array)
        return group.share(data)

    def _layout(self, entries: tuple[tuple[int, tuple[int, ...], np.dtype], ...]) -> ViewLayout:
        """The same object for equal ones, so that arrays can be used again; see `ParkedArrays`."""
        layout = self._layouts.get(entries)
        if layout is None:
            layout = self._layouts[entries] = ViewLayout(entries)
        return layout


@dataclass(frozen=True, slots=True)
class _Span:
    """Of a model's parameters those from `begin` to `end`, which are to be a group.

    whole, first: the group that has them already, from its `first` on; None if none has.
    """

    begin: int
    end: int
    whole: Group | None = None
    first: int = 0

    @property
    def shared_bytes(self) -> int:
        if self.whole is None:
            return 0
        ends = (*self.whole.offsets, self.whole.size_bytes)
        return ends[self.first + self.end - self.begin] - ends[self.first]


def _longest(group: Group, digests: Sequence[bytes], free: int, at: int) -> _Span:
    """The longest run of `group` around parameter `at`, which it has, with none before `free`."""
    first, begin, end = group.leaves.index(digests[at]), at, at + 1
    while begin > free and first > 0 and digests[begin - 1] == group.leaves[first - 1]:
        begin, first = begin - 1, first - 1
    after = first + end - begin
    while end < len(digests) and after < len(group.leaves) and digests[end] == group.leaves[after]:
        end, after = end + 1, after + 1
    return _Span(begin, end, group, first)


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


def _flat(array: np.ndarray) -> np.ndarray:
    """Its bytes [n]; not every dtype has a buffer."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _digest(array: np.ndarray) -> bytes:
    digest = hashlib.blake2b(repr((array.shape, array.dtype.name)).encode(), digest_size=20)
    digest.update(_flat(array).data)
    return digest.digest()


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
