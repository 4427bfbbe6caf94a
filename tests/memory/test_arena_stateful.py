"""Any order of calls: an arena beside a list of intervals that says what must hold."""

import ctypes
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from missile_jax._native import Arena, Block

SIZE = 1 << 15
PICK = st.integers(0, 1 << 16)


@dataclass
class Held:
    """A block that may not be reused. block: None once its owner has dropped it."""

    block: Block | None
    offset: int
    content: bytes
    views: list[np.ndarray] = field(default_factory=list)
    pins: int = 0
    released: bool = False

    @property
    def movable(self) -> bool:
        return not (self.released or self.pins or self.views)

    def unpin_all(self) -> None:
        for _ in range(self.pins):
            assert self.block is not None
            self.block.unpin()
        self.pins = 0


class Arenas(RuleBasedStateMachine):
    @initialize(alignment=st.sampled_from([64, 256]))
    def start(self, alignment):
        self.arena = Arena(SIZE, alignment=alignment)
        self.alignment = alignment
        self.held: list[Held] = []
        self.gone: list[Block] = []
        self.made = 0

    def reserved(self, held: Held) -> int:
        return -(-len(held.content) // self.alignment) * self.alignment

    def holes(self) -> list[tuple[int, int]]:
        """The start and end of each stretch that no block needs."""
        taken = sorted((held.offset, held.offset + self.reserved(held)) for held in self.held)
        edges = [(0, 0), *taken, (SIZE, SIZE)]
        return [(end, start) for (_, end), (start, _) in pairwise(edges)]

    def settle(self, held: Held) -> None:
        """Forgets a block that nothing needs any more; it must know so itself."""
        if held.released and not held.pins and not held.views:
            self.held.remove(held)
            if held.block is not None:
                assert held.block.state == "free"
                self.gone.append(held.block)

    def pick(self, index: int, *, owned: bool = False) -> Held | None:
        among = [held for held in self.held if held.block is not None or not owned]
        return among[index % len(among)] if among else None

    @rule(
        size=st.integers(1, 6000) | st.integers(1, 500),
        near=st.none() | PICK,
        places=st.sets(st.integers(0, SIZE // 256), max_size=5),
    )
    def allocate(self, size, near, places):
        wanted = [256 * place for place in sorted(places)]
        neighbour = None if near is None else self.pick(near, owned=True)
        reserved = -(-size // self.alignment) * self.alignment
        holes = [(start, end) for start, end in self.holes() if end - start >= reserved]
        near_block = neighbour.block if neighbour else None
        block = self.arena.allocate(size, near_block, wanted)
        if block is None:
            assert not holes
            return
        offset = block.offset
        assert any(start <= offset and offset + reserved <= end for start, end in holes)
        free = [p for p in wanted if any(s <= p and p + reserved <= e for s, e in holes)]
        behind = None if neighbour is None else neighbour.offset + self.reserved(neighbour)
        if any(start == behind for start, _ in holes) and (behind in free or not free):
            assert offset == behind
        elif free:
            assert offset in free
        self.made += 1
        content = np.random.default_rng(self.made).integers(0, 256, size, np.uint8)
        block.array(0, (size,), "uint8")[:] = content
        self.held.append(Held(block, offset, content.tobytes()))

    @rule(index=PICK)
    def view(self, index):
        if (held := self.pick(index, owned=True)) is None:
            return
        assert held.block is not None
        if held.released:
            with pytest.raises(ValueError, match="released"):
                held.block.array(0, (1,), "int8")
        else:
            held.views.append(held.block.array(0, (len(held.content),), "uint8"))

    @rule(index=PICK)
    def drop_view(self, index):
        if (held := self.pick(index)) is not None and held.views:
            held.views.pop()
            self.settle(held)

    @rule(index=PICK)
    def pin(self, index):
        if (held := self.pick(index, owned=True)) is not None and not held.released:
            assert held.block is not None
            held.block.pin()
            held.pins += 1

    @rule(index=PICK)
    def unpin(self, index):
        if (held := self.pick(index, owned=True)) is None:
            return
        assert held.block is not None
        if held.pins == 0:
            with pytest.raises(ValueError, match="no pin"):
                held.block.unpin()
            return
        held.block.unpin()
        held.pins -= 1
        self.settle(held)

    @rule(index=PICK)
    def release(self, index):
        if (held := self.pick(index, owned=True)) is None:
            return
        assert held.block is not None
        if held.released:
            with pytest.raises(ValueError, match="released before"):
                held.block.release()
            return
        held.block.release()
        held.released = True
        self.settle(held)

    @rule(index=PICK)
    def drop_object(self, index):
        held = self.pick(index, owned=True)
        # Nobody could take the pins off.
        if held is not None and held.pins == 0:
            held.block = None
            held.released = True
            self.settle(held)

    @rule(index=PICK)
    def move(self, index):
        if (held := self.pick(index, owned=True)) is None:
            return
        assert held.block is not None
        below = [hole for hole in self.holes() if hole[0] < held.offset and hole[0] < hole[1]]
        fitting = [start for start, end in below if end - start >= self.reserved(held)]
        sliding = [start for start, end in below if end == held.offset]
        moved = self.arena.move(held.block)
        assert moved == (held.movable and bool(fitting or sliding))
        if moved:
            held.offset = held.block.offset
            assert held.offset == min(fitting or sliding)

    @precondition(lambda self: self.held)
    @rule()
    def compact(self):
        before = self.arena.stats()["moved_bytes"]
        moved = self.arena.compact()
        assert moved == self.arena.stats()["moved_bytes"] - before
        for held in self.held:
            if held.block is not None and held.block.offset != held.offset:
                assert held.movable
                assert held.block.offset < held.offset
                held.offset = held.block.offset
        for held in self.held:
            if held.movable:
                below = [end - start for start, end in self.holes() if start < held.offset]
                assert all(size < self.reserved(held) for size in below)
                assert all(start == end for start, end in self.holes() if end == held.offset)

    def cheapest_stretch(self, size: int) -> int | None:
        """The least bytes of movable blocks between holes that together have `size`."""
        taken = [(h.offset, self.reserved(h), h.movable) for h in self.held]
        holes = [(start, end - start, None) for start, end in self.holes() if start < end]
        row = sorted(taken + holes)
        costs = []
        for first in range(len(row)):
            room = cost = 0
            for _, length, movable in row[first:]:
                if movable is None:
                    room += length
                    if room >= size:
                        costs.append(cost)
                        break
                elif not movable:
                    break
                else:
                    cost += length
        return min(costs, default=None)

    @rule(size=st.integers(1, 12_000), most=st.integers(0, 12_000) | st.just(SIZE))
    def make_room(self, size, most):
        reserved = -(-size // self.alignment) * self.alignment
        cheapest = self.cheapest_stretch(reserved)
        made = self.arena.make_room(size, most)
        assert made == (cheapest is not None and cheapest <= most)
        moved = 0
        for held in self.held:
            if held.block is not None and held.block.offset != held.offset:
                assert held.movable
                moved += self.reserved(held)
                held.offset = held.block.offset
        assert moved <= (cheapest or 0)
        if made:
            assert max(end - start for start, end in self.holes()) >= reserved

    @rule()
    def forget(self):
        """The objects of free blocks: nothing may depend on when they go."""
        self.gone.clear()

    @invariant()
    def the_arena_agrees_with_itself(self):
        self.arena.check()

    @invariant()
    def blocks_keep_their_place_and_bytes(self):
        end = 0
        for held in sorted(self.held, key=lambda held: held.offset):
            assert held.offset >= end
            assert held.offset % self.alignment == 0
            end = held.offset + self.reserved(held)
            found = ctypes.string_at(self.arena.address + held.offset, len(held.content))
            assert found == held.content
            for view in held.views:
                assert view.ctypes.data == self.arena.address + held.offset
            if held.block is not None:
                assert held.block.offset == held.offset
                assert held.block.state == ("waiting" if held.released else "live")
        assert end <= SIZE

    @invariant()
    def stats_agree(self):
        stats = self.arena.stats()
        used = sum(self.reserved(held) for held in self.held)
        assert (stats["used_bytes"], stats["free_bytes"]) == (used, SIZE - used)
        assert stats["requested_bytes"] == sum(len(held.content) for held in self.held)
        assert stats["largest_free_bytes"] == max(end - start for start, end in self.holes())
        assert stats["waiting_blocks"] == sum(held.released for held in self.held)
        assert stats["live_blocks"] == len(self.held) - stats["waiting_blocks"]
        assert stats["views"] == sum(len(held.views) for held in self.held)
        assert stats["pins"] == sum(held.pins for held in self.held)
        assert stats["native_allocations"] == 0

    def teardown(self):
        if not hasattr(self, "arena"):
            return
        while self.held:  # Without a name for one, which would keep its views.
            self.held.pop().unpin_all()
        assert self.arena.stats()["used_bytes"] == 0
        whole = self.arena.allocate(SIZE)
        assert whole is not None
        assert whole.offset == 0
        self.arena.check()


TestArenas = Arenas.TestCase
TestArenas.settings = settings(max_examples=150, stateful_step_count=60)
