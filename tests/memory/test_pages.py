"""memory.pages: what the kernel says of huge pages."""

from pathlib import Path

import pytest

from missile_jax import Runtime
from missile_jax._native import Arena
from missile_jax.memory import pages
from missile_jax.memory.pages import huge_page_bytes

MIB = 1 << 20
SMAPS = """\
00400000-00500000 r-xp 00000000 08:02 173521      /usr/bin/python3
Size:               1024 kB
AnonHugePages:      2048 kB
VmFlags: rd ex mr
7f0000000000-7f0001000000 rw-p 00000000 00:00 0
Size:              16384 kB
AnonHugePages:      8192 kB
ShmemPmdMapped:        0 kB
VmFlags: rd wr hg
7f0001000000-7f0001200000 rw-p 00000000 00:00 0
AnonHugePages:      2048 kB
"""


@pytest.mark.parametrize(
    ("address", "size_bytes", "huge_bytes"),
    [
        (0x7F0000000000, 16 * MIB, 8 * MIB),
        (0x7F0000000000, 18 * MIB, 10 * MIB),
        (0x7F0000400000, 4 * MIB, 4 * MIB),
        (0x7F0001000000, 2 * MIB, 2 * MIB),
        (0x7F0001200000, 2 * MIB, 0),
    ],
)
def test_the_mappings_of_the_range_are_counted(
    tmp_path, monkeypatch, address, size_bytes, huge_bytes
):
    (tmp_path / "smaps").write_text(SMAPS)
    monkeypatch.setattr(pages, "_SMAPS", tmp_path / "smaps")
    assert huge_page_bytes(address, size_bytes) == huge_bytes


def test_a_kernel_that_does_not_say(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "_SMAPS", tmp_path / "smaps")
    assert huge_page_bytes(0, MIB) is None
    with Runtime(device_memory="8MiB") as runtime:
        assert runtime.stats()["memory"]["arena"]["huge_page_bytes"] is None


def gives_huge_pages() -> bool:
    try:
        allowed = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return False
    return "[never]" not in allowed and Path("/proc/self/smaps").exists()


@pytest.mark.skipif(not gives_huge_pages(), reason="this kernel gives no transparent huge pages")
def test_an_arena_lies_in_huge_pages_where_the_kernel_allows():
    arena, without = Arena(64 * MIB), Arena(64 * MIB, huge_pages=False)
    # A kernel without free huge pages gives fewer, not none.
    assert huge_page_bytes(arena.address, arena.size_bytes) > 0
    if "[madvise]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        assert huge_page_bytes(without.address, without.size_bytes) == 0
    with Runtime(device_memory="64MiB") as runtime:
        assert runtime.stats()["memory"]["arena"]["huge_page_bytes"] > 0
