"""Which pages the kernel has given."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_SMAPS = Path("/proc/self/smaps")


def huge_page_bytes(address: int, size_bytes: int) -> int | None:
    """How much of the memory at `address` lies in huge pages; None where the kernel does not say.

    Takes some milliseconds: the kernel looks at all memory of the process.
    """
    try:
        lines = _SMAPS.read_text().splitlines()
    except OSError:
        return None
    return min(size_bytes, _huge_bytes(lines, address, address + size_bytes))


def _huge_bytes(lines: Iterable[str], begin: int, end: int) -> int:
    """In all mappings that reach into `begin` to `end`, which may be larger."""
    total, inside = 0, False
    for line in lines:
        first, _, rest = line.partition(" ")
        if first == "AnonHugePages:":
            total += inside * int(rest.split()[0]) * 1024
        elif not first.endswith(":"):
            start, stop = (int(bound, 16) for bound in first.split("-"))
            inside = start < end and begin < stop
    return total
