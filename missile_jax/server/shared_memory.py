"""System shared memory: tensors that a client on this machine hands over in POSIX shared memory.

A client makes a shared memory object and registers a region of it under a name; its requests then
say where in the region a tensor lies. Both doors share one `Regions`.

Regions are read and written by `pread` and `pwrite`, not mapped. A client may cut its object short
at any time: a read then comes back short, where touching a map would end the process by SIGBUS. It
costs no copy more, since a mapped tensor would be copied too, lest its client change it under way.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from missile_jax.errors import RequestError
from missile_jax.options import SharedMemoryOptions
from missile_jax.server import parameters as parameter
from missile_jax.server.tensors import CodecError

# Where Linux keeps the objects of shm_open: shm_overview(7).
_OBJECTS = "/dev/shm"
_KEY = re.compile(r"/(?!\.\.?\Z)[^/\0]{1,254}")


class RegionError(RequestError, ValueError):
    """A region of shared memory is not there, or is not what the client says it is."""


class Slice(NamedTuple):
    """Where a tensor lies: `size_bytes` of a region, from `offset_bytes` on."""

    region: str
    size_bytes: int
    offset_bytes: int = 0

    def parameters(self) -> dict[str, str | int]:
        """As parameters of a tensor. Inverse of `slice_in`."""
        values: dict[str, str | int] = {
            "shared_memory_region": self.region,
            "shared_memory_byte_size": self.size_bytes,
        }
        if self.offset_bytes:
            values["shared_memory_offset"] = self.offset_bytes
        return values


def slice_in(where: str, parameters: Mapping[str, Any]) -> Slice | None:
    """The slice that a tensor's parameters name, if they name one. Raises CodecError."""
    region = parameters.get("shared_memory_region")
    if region is None:
        return None
    if type(region) is not str:
        raise CodecError(f"{where}: parameter shared_memory_region must be a string")
    return Slice(
        region,
        parameter.size(where, parameters, "shared_memory_byte_size"),
        parameter.size(where, parameters, "shared_memory_offset", 0),
    )


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Region:
    """`size_bytes` of the shared memory object `key`, from `offset_bytes` on, under a name.

    The object stays open for as long as anything refers to the region, so that one that is
    unregistered while it is used ends with its last use.
    """

    name: str
    key: str
    offset_bytes: int
    size_bytes: int
    descriptor: int

    def position(self, part: Slice) -> int:
        """Where `part` begins in the object. Raises RegionError where it does not lie in both."""
        if part.offset_bytes + part.size_bytes > self.size_bytes:
            raise RegionError(
                f"shared memory region {self.name!r} has {self.size_bytes} bytes, "
                f"got {part.size_bytes} from {part.offset_bytes} on"
            )
        start = self.offset_bytes + part.offset_bytes
        if start + part.size_bytes > os.fstat(self.descriptor).st_size:
            raise self._shrank()
        return start

    def read(self, part: Slice) -> bytes:
        """A copy of `part`. Raises RegionError."""
        data = os.pread(self.descriptor, part.size_bytes, self.position(part))
        if len(data) < part.size_bytes:
            raise self._shrank()
        return data

    def write(self, part: Slice, data: bytes | memoryview) -> None:
        """Put `data`, flat bytes, at the start of `part`. Raises RegionError."""
        start = self.position(part)
        view, at = memoryview(data), 0
        while at < len(view):
            at += os.pwrite(self.descriptor, view[at:], start + at)

    def _shrank(self) -> RegionError:
        return RegionError(
            f"shared memory region {self.name!r}: the object {self.key!r} is shorter than it was"
        )


class Regions:
    """The regions that clients have registered. May be used from any thread."""

    def __init__(self, options: SharedMemoryOptions = SharedMemoryOptions()) -> None:
        self._options = options
        self._regions: dict[str, Region] = {}
        self._lock = threading.Lock()

    @property
    def on(self) -> bool:
        """Whether clients may use system shared memory."""
        return self._options.system

    def register(self, name: str, key: str, offset_bytes: int, size_bytes: int) -> None:
        """Open the object `key` and know a part of it as `name`. Raises RegionError."""
        self._check_on()
        if not name:
            raise RegionError("a shared memory region must have a name")
        if not _KEY.fullmatch(key):
            raise RegionError(
                f"shared memory key {key!r:.80} is not allowed; use a slash and a name without one"
            )
        if offset_bytes < 0 or size_bytes < 1:
            raise RegionError(
                f"shared memory region {name!r} must have an offset of 0 or more and a byte_size "
                f"of 1 or more, got {offset_bytes} and {size_bytes}"
            )
        region = _open(name, key, offset_bytes, size_bytes)
        with self._lock:
            if name in self._regions:
                raise RegionError(f"shared memory region {name!r} is registered already")
            if len(self._regions) == self._options.max_regions:
                raise RegionError(
                    f"{len(self._regions)} shared memory regions are registered, which is the most"
                )
            self._regions[name] = region

    def unregister(self, name: str = "") -> None:
        """Forget a region, or all where no name is given. One that is not there is no error."""
        self._check_on()
        with self._lock:
            if name:
                self._regions.pop(name, None)
            else:
                self._regions.clear()

    def status(self, name: str = "") -> list[Region]:
        """The region of this name, or all where none is given. Raises RegionError."""
        self._check_on()
        if name:
            return [self._region(name)]
        with self._lock:
            return list(self._regions.values())

    def check(self, part: Slice) -> None:
        """Raises RegionError unless `part` can be written."""
        self._region(part.region).position(part)

    def write(self, part: Slice, data: bytes | memoryview) -> Slice:
        """Put `data` where a client wants it; the slice that it takes. Raises RegionError."""
        taken = part._replace(size_bytes=memoryview(data).nbytes)
        if taken.size_bytes > part.size_bytes:
            raise RegionError(
                f"an output of {taken.size_bytes} bytes does not fit into the {part.size_bytes} "
                f"that the request names in shared memory region {part.region!r}"
            )
        self._region(part.region).write(taken, data)
        return taken

    def reader(self) -> Reader:
        """Reads the inputs of one request."""
        return Reader(self, self._options.max_request_bytes)

    def _region(self, name: str) -> Region:
        self._check_on()
        with self._lock:
            region = self._regions.get(name)
        if region is None:
            raise RegionError(f"no shared memory region {name!r:.80} is registered")
        return region

    def _check_on(self) -> None:
        if not self.on:
            raise RegionError("this server does not take system shared memory")


class Reader:
    """Copies the inputs of one request out of their regions, up to a limit in all.

    Many inputs may name one large region, so the request's own size bounds nothing.
    """

    def __init__(self, regions: Regions, left_bytes: int) -> None:
        self._regions = regions
        self._left_bytes = left_bytes

    def read(self, part: Slice) -> bytes:
        """A copy of what lies there. Raises RegionError."""
        region = self._regions._region(part.region)
        if part.size_bytes > self._left_bytes:
            raise RegionError(
                f"an input of {part.size_bytes} bytes in shared memory region {part.region!r} is "
                f"larger than the {self._left_bytes} that are left of the request's limit"
            )
        self._left_bytes -= part.size_bytes
        return region.read(part)


def _open(name: str, key: str, offset_bytes: int, size_bytes: int) -> Region:
    try:
        descriptor = os.open(_OBJECTS + key, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise RegionError(
            f"shared memory object {key!r} cannot be opened: {os.strerror(error.errno or 0)}"
        ) from None
    region = Region(name, key, offset_bytes, size_bytes, descriptor)
    weakref.finalize(region, os.close, descriptor)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise RegionError(f"{key!r} is not a shared memory object")
    if offset_bytes + size_bytes > found.st_size:
        raise RegionError(
            f"shared memory object {key!r} has {found.st_size} bytes, "
            f"got a region of {size_bytes} from {offset_bytes} on"
        )
    return region


OFF = Regions()
