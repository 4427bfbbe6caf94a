"""An arena hands out blocks of memory taken once, and takes them back when nothing uses them."""

import gc
import resource
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from missile_jax._native import Arena, Block

KIB = 1 << 10
MIB = 1 << 20


def take(arena: Arena, size_bytes: int, near: Block | None = None) -> Block:
    block = arena.allocate(size_bytes, near=near)
    assert block is not None
    return block


@pytest.fixture
def arena():
    return Arena(64 * KIB)


@pytest.mark.smoke
@pytest.mark.parametrize("alignment", [64, 256, 4096, 2 * MIB])
def test_blocks_start_at_the_alignment(alignment):
    arena = Arena(3 * alignment, alignment=alignment)
    assert arena.address % (2 * MIB) == 0
    assert (arena.size_bytes, arena.alignment) == (3 * alignment, alignment)
    blocks = [take(arena, size) for size in (1, alignment, alignment - 1)]
    assert [block.offset for block in blocks] == [0, alignment, 2 * alignment]
    assert [block.address - arena.address for block in blocks] == [0, alignment, 2 * alignment]
    assert [block.size_bytes for block in blocks] == [1, alignment, alignment - 1]
    assert arena.allocate(1) is None
    arena.check()


def test_a_size_is_rounded_up_to_the_alignment():
    assert Arena(1000, alignment=256).size_bytes == 1024


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Arena(0), ValueError, "size_bytes is 0"),
        (lambda: Arena(-1), ValueError, "size_bytes is -1"),
        (lambda: Arena(KIB, alignment=0), ValueError, "power of two from 64"),
        (lambda: Arena(KIB, alignment=96), ValueError, "alignment is 96"),
        (lambda: Arena(KIB, alignment=4 * MIB), ValueError, "to 2097152"),
        (lambda: Arena(1 << 55, prefault=False), MemoryError, "refused 36028797018963968 bytes"),
        (lambda: Arena(1 << 60), MemoryError, "more than any machine"),
        (lambda: Arena(KIB).allocate(0), ValueError, "1 to 1024"),
        (lambda: Arena(KIB).allocate(-5), ValueError, "size_bytes is -5"),
        (lambda: Arena(KIB).allocate(KIB + 1), ValueError, "1025 bytes"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_pages_are_there_before_the_first_write():
    block = take(Arena(32 * MIB, huge_pages=False), 32 * MIB)
    array = block.array(0, (32 * MIB,), "uint8")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    array[:] = 1
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < array.nbytes / resource.getpagesize() / 10


def test_without_prefault_pages_come_when_written():
    block = take(Arena(32 * MIB, prefault=False, huge_pages=False), 32 * MIB)
    array = block.array(0, (32 * MIB,), "uint8")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    array[:] = 1
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults >= array.nbytes / resource.getpagesize()


def test_neighbours_are_joined_at_once(arena):
    blocks = [take(arena, 16 * KIB) for _ in range(4)]
    assert arena.stats()["free_bytes"] == arena.stats()["largest_free_bytes"] == 0
    for index, largest in [(0, 16), (2, 16), (1, 48), (3, 64)]:
        blocks[index].release()
        arena.check()
        assert arena.stats()["largest_free_bytes"] == largest * KIB


def test_every_hole_that_is_large_enough_is_found(arena):
    """Also one whose class holds smaller ones too, at the head of its list."""
    sizes = [(200, True), (1, False), (203, True), (1, False), (202, True)]
    blocks = [(take(arena, 64 * granules), leaves) for granules, leaves in sizes]
    rest = take(arena, arena.stats()["largest_free_bytes"])
    holes = [block for block, leaves in blocks if leaves]
    for hole in (holes[1], holes[2], holes[0]):
        hole.release()
    found = take(arena, 64 * 203)
    assert found.offset == 64 * 201
    assert arena.allocate(64 * 203) is None
    assert arena.stats()["failures"] == 1
    assert rest.state == "live"


def test_near_takes_the_hole_right_behind(arena):
    first, second, third = (take(arena, 8 * KIB) for _ in range(3))
    second.release()
    behind_third = take(arena, 4 * KIB, near=third)
    behind_first = take(arena, 4 * KIB, near=first)
    assert behind_third.offset == third.offset + 8 * KIB
    assert behind_first.offset == first.offset + 8 * KIB
    # Too small a hole, or a block that is gone: then anywhere.
    assert take(arena, 6 * KIB, near=behind_first).offset > third.offset
    assert take(arena, 2 * KIB, near=second).state == "live"
    with pytest.raises(ValueError, match="another arena"):
        Arena(KIB).allocate(64, near=first)


def test_a_block_lies_at_one_of_the_places_asked_for(arena):
    blocks = [take(arena, 8 * KIB) for _ in range(8)]
    for k in (1, 3, 4, 5, 6):
        blocks[k].release()
    # In the middle of a hole, whose rest stays free on both sides; the smaller hole goes first.
    middle = arena.allocate(8 * KIB, places=[0, 40 * KIB, 60 * KIB])
    assert middle.offset == 40 * KIB
    alone = arena.allocate(4 * KIB, places=[9 * KIB, 25 * KIB])
    assert alone.offset == 9 * KIB
    assert arena.stats()["free_bytes"] == (1 + 3 + 16 + 8) * KIB
    arena.check()
    # Taken, or too short a hole: then anywhere.
    assert arena.allocate(2 * KIB, places=[15 * KIB, 40 * KIB]).state == "live"
    assert arena.allocate(8 * KIB, places=[41 * KIB, 49 * KIB]).state == "live"
    arena.check()


def test_of_the_places_the_one_right_behind_near_comes_first(arena):
    first, second, third = (take(arena, 8 * KIB) for _ in range(3))
    first.release()
    behind = 24 * KIB
    block = arena.allocate(4 * KIB, near=third, places=[0, behind])
    assert block.offset == behind
    block.release()
    assert arena.allocate(4 * KIB, near=third, places=[4 * KIB]).offset == 4 * KIB
    assert second.offset == 8 * KIB


@pytest.mark.parametrize("places", [[64, 0], [64, 64], [32], [0, 65]])
def test_places_have_to_ascend_and_be_aligned(arena, places):
    with pytest.raises(ValueError, match="`places` must ascend and be multiples of 64"):
        arena.allocate(64, places=places)


def test_a_block_waits_for_its_pins_and_views(arena):
    block = take(arena, 64 * KIB)
    block.pin()
    view = block.array(0, (4,), "float32")
    block.release()
    assert block.state == "waiting"
    assert arena.stats()["waiting_blocks"] == 1
    assert arena.allocate(64) is None
    block.unpin()
    assert block.state == "waiting"
    part = view[1:]
    del view
    assert block.state == "waiting"
    del part
    assert block.state == "free"
    assert take(arena, 64 * KIB).state == "live"
    assert arena.stats()["waiting_blocks"] == 0


def test_a_released_block_can_not_be_used_anew(arena):
    block = take(arena, 64)
    with pytest.raises(ValueError, match="no pin"):
        block.unpin()
    view = block.array(0, (), "int8")
    block.release()
    for state in ("waiting", "free"):
        assert block.state == state
        with pytest.raises(ValueError, match="released before"):
            block.release()
        with pytest.raises(ValueError, match="released"):
            block.pin()
        with pytest.raises(ValueError, match="released"):
            block.array(0, (), "int8")
        view = None
    assert view is None
    with pytest.raises(ValueError, match="lies nowhere"):
        _ = block.address
    arena.check()


def test_dropping_the_object_releases_the_block(arena):
    block = take(arena, KIB)
    view = block.array(0, (KIB,), "uint8")
    view[:] = 9
    del block
    assert arena.stats()["waiting_blocks"] == 1
    other = take(arena, 63 * KIB)
    other.array(0, (63 * KIB,), "uint8")[:] = 1
    assert (view == 9).all()
    del view, other
    assert arena.stats()["used_bytes"] == 0
    arena.check()


def test_views_and_blocks_keep_the_memory():
    view = take(Arena(KIB), KIB).array(0, (KIB,), "uint8")
    gc.collect()
    view[:] = 3
    assert view.sum() == 3 * KIB


def test_a_block_moves_to_the_lowest_hole_that_holds_it(arena):
    small, block, large, last = (take(arena, size * KIB) for size in (4, 8, 16, 8))
    last.array(0, (8 * KIB,), "uint8")[:] = 7
    small.release()
    large.release()
    assert arena.move(last)
    assert last.offset == 12 * KIB
    assert (last.array(0, (8 * KIB,), "uint8") == 7).all()
    arena.check()
    assert block.offset == 4 * KIB


@pytest.mark.parametrize("gap", [64, 4032, 8192, 16384])
def test_a_block_slides_over_its_own_bytes(arena, gap):
    before, block = take(arena, gap), take(arena, 8 * KIB)
    content = np.arange(8 * KIB, dtype=np.uint16).view(np.uint8)[: 8 * KIB]
    block.array(0, content.shape, "uint8")[:] = content
    assert not arena.move(block)
    before.release()
    assert arena.move(block)
    assert block.offset == 0
    np.testing.assert_array_equal(block.array(0, content.shape, "uint8"), content)
    assert arena.stats()["moved_bytes"] == 8 * KIB
    assert arena.stats()["free_bytes"] == arena.stats()["largest_free_bytes"] == 56 * KIB
    arena.check()


def test_a_block_in_use_does_not_move(arena):
    before, block = take(arena, KIB), take(arena, KIB)
    before.release()
    block.pin()
    assert not arena.move(block)
    block.unpin()
    view = block.array(0, (1,), "int8")
    assert not arena.move(block)
    block.release()
    assert not arena.move(block)
    del view
    assert not arena.move(block)
    with pytest.raises(ValueError, match="another arena"):
        Arena(KIB).move(block)


def test_compacting_leaves_one_hole(arena):
    blocks = [take(arena, 2 * KIB) for _ in range(32)]
    for index, block in enumerate(blocks):
        block.array(0, (2 * KIB,), "uint8")[:] = index
    for block in blocks[::2]:
        block.release()
    assert arena.stats()["fragmentation"] == 1 - 1 / 16
    assert arena.compact() == arena.stats()["moved_bytes"] > 0
    assert arena.stats()["fragmentation"] == 0
    assert arena.compact() == 0
    for index, block in enumerate(blocks):
        if index % 2:
            assert (block.array(0, (2 * KIB,), "uint8") == index).all()
    arena.check()


def test_room_is_made_where_it_moves_least(arena):
    sizes = [4, 8, 2, 1, 3, 8, 2]
    blocks = [take(arena, size * KIB) for size in sizes]
    rest = take(arena, arena.stats()["largest_free_bytes"])
    for index, block in enumerate(blocks):
        block.array(0, (sizes[index] * KIB,), "uint8")[:] = index
    for index in (0, 2, 4, 6):
        blocks[index].release()
    assert arena.make_room(4 * KIB)
    assert arena.stats()["moved_bytes"] == 0
    # Between the holes of 2 and 3 KiB lies a block of 1.
    assert arena.make_room(5 * KIB)
    assert arena.stats()["moved_bytes"] == 1 * KIB
    found = take(arena, 5 * KIB)
    assert (found.offset, blocks[3].offset) == (13 * KIB, 12 * KIB)
    found.release()
    blocks[1].pin()
    assert not arena.make_room(8 * KIB)
    blocks[5].pin()
    assert not arena.make_room(6 * KIB)
    blocks[5].unpin()
    assert arena.make_room(7 * KIB)
    for index in (1, 3, 5):
        assert (blocks[index].array(0, (sizes[index] * KIB,), "uint8") == index).all()
    blocks[1].unpin()
    assert rest.state == "live"
    arena.check()


def test_stats_say_what_is_wasted(arena):
    assert arena.stats()["fragmentation"] == arena.stats()["internal_waste"] == 0
    block = take(arena, 48)
    assert arena.stats() == {
        "size_bytes": 64 * KIB,
        "used_bytes": 64,
        "requested_bytes": 48,
        "free_bytes": 64 * KIB - 64,
        "largest_free_bytes": 64 * KIB - 64,
        "live_blocks": 1,
        "waiting_blocks": 0,
        "views": 0,
        "parked_views": 0,
        "pins": 0,
        "allocations": 1,
        "failures": 0,
        "moved_bytes": 0,
        "native_allocations": 0,
        "fragmentation": 0,
        "internal_waste": 0.25,
    }
    rest = take(arena, 64 * KIB - 64)
    assert arena.stats()["fragmentation"] == 0
    assert (block.state, rest.state) == ("live", "live")


def test_the_heap_is_asked_only_when_blocks_outgrow_what_is_prepared():
    arena = Arena(MIB)
    for _ in range(3):
        blocks = [take(arena, 640) for _ in range(1000)]
        views = [block.array(0, (1,), "int8") for block in blocks]
        del blocks, views
    assert arena.stats()["native_allocations"] == 0
    blocks = [take(arena, 64) for _ in range(10_000)]
    grown = arena.stats()["native_allocations"]
    assert grown > 0
    arena.check()
    del blocks
    blocks = [take(arena, 64) for _ in range(10_000)]
    assert arena.stats()["native_allocations"] == grown
    arena.check()
    assert len(blocks) == 10_000


def test_threads_share_an_arena():
    arena = Arena(MIB)
    done = threading.Event()

    def use(seed: int) -> int:
        rng = np.random.default_rng(seed)
        mine: list[tuple[Block, int]] = []
        taken = 0
        for step in range(100_000):
            if step >= 400 and arena.stats()["moved_bytes"] > MIB:
                break
            size = int(rng.integers(64, 16 * KIB))
            block = arena.allocate(size, near=mine[-1][0] if mine else None)
            if block is not None:
                block.array(0, (size,), "uint8")[:] = step % 256
                mine.append((block, step % 256))
                taken += 1
            if block is None or len(mine) > 20:
                old, value = mine.pop(int(rng.integers(len(mine))))
                view = old.array(0, (old.size_bytes,), "uint8")
                old.release()
                assert old.state == "waiting"
                assert (view == value).all()
        return taken

    def move() -> None:
        while not done.is_set():
            arena.compact()
            arena.make_room(512 * KIB)
            arena.check()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            moving = pool.submit(move)
            taken = [future.result() for future in [pool.submit(use, seed) for seed in range(3)]]
            done.set()
            moving.result()
    finally:
        done.set()
        sys.setswitchinterval(interval)
    assert arena.stats()["moved_bytes"] > MIB
    assert arena.stats()["allocations"] == sum(taken)
    assert arena.stats()["used_bytes"] == 0
    arena.check()
