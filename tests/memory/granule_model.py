"""A pool of granules beside lists that say what must hold: for tests, and for longer runs.

Axes: P pages of the arena, G granules of a page.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from granule_maps import PAGE, random_colours

from missile_jax._native import Arena, Block, GranulePool, Granules


@dataclass
class Owner:
    """granules: None once its owner has dropped it. table: as it was last seen."""

    tag: int
    granules: Granules | None
    channels: tuple[int, ...]
    table: list[int]
    pins: int = 0
    released: bool = False

    @property
    def movable(self) -> bool:
        return not (self.released or self.pins)


class Model:
    """Every call is made on the pool, and checked against what the lists allow."""

    def __init__(self, pages: int, granule_bytes: int, channels: int, seed: int) -> None:
        self.pages, self.channels, self.granule_bytes = pages, channels, granule_bytes
        self.per_page = PAGE // granule_bytes
        self.colours = random_colours(pages, granule_bytes, channels, seed).reshape(-1)
        self.arena = Arena(pages * PAGE, prefault=False)
        self.pool = GranulePool(
            self.arena, self.colours.reshape(pages, -1), granule_bytes, channels
        )
        self.owners: list[Owner] = []
        self.blocks: list[Block] = []
        self.tags = 0

    # What the lists say.

    def used(self) -> set[int]:
        return {granule for owner in self.owners for granule in owner.table}

    def coloured_pages(self) -> set[int]:
        return {granule // self.per_page for granule in self.used()}

    def plain_pages(self) -> set[int]:
        """Those in nobody's hands."""
        taken = self.coloured_pages()
        for block in self.blocks:
            last = (block.offset + block.size_bytes - 1) // PAGE
            taken |= set(range(block.offset // PAGE, last + 1))
        return set(range(self.pages)) - taken

    def free_of(self, pages: set[int]) -> Counter[int]:
        """Free granules of `pages` by channel."""
        used = self.used()
        return Counter(
            int(self.colours[granule])
            for page in pages
            for granule in range(page * self.per_page, (page + 1) * self.per_page)
            if granule not in used
        )

    def room_for(self, count: int, channels: Sequence[int]) -> bool:
        free = self.free_of(self.coloured_pages() | self.plain_pages())
        return sum(free[c] for c in channels) >= count

    def _expect_few(
        self, had: Counter[int], taken: set[int], count: int, channels: Sequence[int]
    ) -> None:
        """Of the pages that were `taken` for `count` granules beside the free ones that it `had`,
        none was taken in vain."""
        of_page = [sum(self.free_of({page})[c] for c in channels) for page in taken]
        free = sum(had[c] for c in channels)
        assert not taken or free + sum(of_page) - max(of_page) < count

    # What is done.

    def allocate(self, count: int, channels: Sequence[int]) -> None:
        plain, had = self.plain_pages(), self.free_of(self.coloured_pages())
        before, room = self.coloured_pages(), self.room_for(count, channels)
        granules = self.pool.allocate(count * self.granule_bytes, channels)
        assert (granules is not None) == room
        if granules is None:
            return
        table = granules.table.tolist()
        taken = {granule // self.per_page for granule in table} - before
        assert taken <= plain
        self._expect_few(had, taken, count, channels)
        free = self.free_of(before | taken)
        self._expect_even(Counter(int(self.colours[g]) for g in table), free, channels)
        assert not set(table) & self.used()
        self.tags += 1
        owner = Owner(self.tags, granules, tuple(channels), table)
        self.owners.append(owner)
        for place, granule in enumerate(table):
            ctypes.memmove(self._address(granule), self._tag(owner, place), 16)

    def _expect_even(self, had: Counter[int], free: Counter[int], channels: Sequence[int]) -> None:
        """Who has less than another by more than one, has all there was."""
        assert set(had) <= set(channels)
        most = max(had.values())
        for channel in channels:
            assert had[channel] >= most - 1 or had[channel] == free[channel]

    def allocate_block(self, size_bytes: int) -> None:
        block = self.arena.allocate(size_bytes)
        if block is not None:
            self.blocks.append(block)

    def release_block(self, index: int) -> None:
        if self.blocks:
            self.blocks.pop(index % len(self.blocks)).release()

    def compact(self) -> None:
        self.arena.compact()

    def pin(self, owner: Owner) -> None:
        if owner.granules is not None and not owner.released:
            owner.granules.pin()
            owner.pins += 1

    def unpin(self, owner: Owner) -> None:
        if owner.granules is not None and owner.pins:
            owner.granules.unpin()
            owner.pins -= 1
            self._settle(owner)

    def release(self, owner: Owner) -> None:
        if owner.granules is not None and not owner.released:
            owner.granules.release()
            owner.released = True
            self._settle(owner)

    def drop(self, owner: Owner) -> None:
        if owner.granules is not None and not owner.pins:
            owner.granules, owner.released = None, True
            self._settle(owner)

    def _settle(self, owner: Owner) -> None:
        if owner.released and not owner.pins:
            self.owners.remove(owner)
            assert owner.granules is None or owner.granules.state == "free"

    def recolour(self, owner: Owner, channels: Sequence[int]) -> None:
        if owner.granules is None:
            return
        before, version = owner.table, owner.granules.version
        part = -(-len(before) // len(channels))
        has = Counter(int(self.colours[g]) for g in before)
        stay = sum(min(has[c], part) for c in channels)
        room = self.room_for(len(before) - stay, channels)
        done = self.pool.recolour(owner.granules, channels)
        assert done == (owner.movable and room)
        after = owner.granules.table.tolist()
        assert sum(a == b for a, b in zip(before, after, strict=True)) == (
            stay if done else len(before)
        )
        assert owner.granules.version == version + (before != after)
        if done:
            owner.table, owner.channels = after, tuple(channels)

    def gather(self) -> None:
        before = len(self.coloured_pages())
        gone = self.pool.gather()
        for owner in self.owners:
            if owner.granules is not None:
                after = owner.granules.table.tolist()
                assert owner.movable or after == owner.table
                owner.table = after
        assert len(self.coloured_pages()) == before - gone
        if gone == 0:
            self._expect_gathered()

    def _expect_gathered(self) -> None:
        """The sparsest page has something that is in use, or finds no room on the others."""
        pages = self.coloured_pages()
        on = Counter(granule // self.per_page for granule in self.used())
        sparsest = min(pages, key=lambda page: (on[page], page), default=None)
        if sparsest is None:
            return
        lodgers = [(o, g) for o in self.owners for g in o.table if g // self.per_page == sparsest]
        needs = Counter(int(self.colours[g]) for _, g in lodgers)
        room = self.free_of(pages - {sparsest})
        in_use = any(not owner.movable for owner, _ in lodgers)
        assert in_use or any(needs[c] > room[c] for c in needs)

    # What must hold at any time.

    def check(self) -> None:
        self.pool.check()
        self.arena.check()
        used = self.used()
        assert len(used) == sum(len(owner.table) for owner in self.owners)
        stats = self.pool.stats()
        by_channel = Counter(int(self.colours[granule]) for granule in used)
        assert stats["used_granules"] == [by_channel[c] for c in range(self.channels)]
        free = self.free_of(self.coloured_pages())
        assert stats["free_granules"] == [free[c] for c in range(self.channels)]
        assert stats["pages"] == len(self.coloured_pages())
        assert stats["waiting"] == sum(owner.released for owner in self.owners)
        assert stats["live"] == len(self.owners) - stats["waiting"]
        assert stats["pins"] == sum(owner.pins for owner in self.owners)
        blocks = sum(self.arena.rounded(block.size_bytes) for block in self.blocks)
        assert self.arena.stats()["used_bytes"] == blocks + PAGE * stats["pages"]
        for owner in self.owners:
            for place, granule in enumerate(owner.table):
                assert self.colours[granule] in owner.channels
                assert ctypes.string_at(self._address(granule), 16) == self._tag(owner, place)
            if owner.granules is not None:
                assert owner.granules.table.tolist() == owner.table
                assert owner.granules.state == ("waiting" if owner.released else "live")

    def _address(self, granule: int) -> int:
        return self.arena.address + granule * self.granule_bytes

    def _tag(self, owner: Owner, place: int) -> bytes:
        return np.array([owner.tag, place], np.int64).tobytes()

    def end(self) -> None:
        """Everything goes; the arena must be whole again."""
        while self.owners:
            owner = self.owners.pop()
            for _ in range(owner.pins):
                assert owner.granules is not None
                owner.granules.unpin()
            del owner
        self.blocks.clear()
        self.pool.check()
        assert self.arena.stats()["used_bytes"] == 0
        assert self.arena.stats()["largest_free_bytes"] == self.pages * PAGE
