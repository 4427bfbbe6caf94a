"""Memory by channel: which granules an owner gets, and what happens to them."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from granule_maps import KIB, PAGE, colours_of, random_colours, read, written

from missile_jax._native import Arena, GranulePool, Granules, ViewLayout

GRANULE = 32 * KIB
PER_PAGE = PAGE // GRANULE
PAGES = 8
CHANNELS = 6


@pytest.fixture
def colours():
    return random_colours(PAGES, GRANULE, CHANNELS)


@pytest.fixture
def arena():
    return Arena(PAGES * PAGE, prefault=False)


@pytest.fixture
def pool(arena, colours):
    made = GranulePool(arena, colours, GRANULE, CHANNELS)
    yield made
    made.check()
    arena.check()


def take(pool: GranulePool, count: int, channels: list[int] | None = None) -> Granules:
    granules = pool.allocate(count * GRANULE, channels)
    assert granules is not None
    return granules


@pytest.mark.smoke
@pytest.mark.parametrize("channels", [None, [3], [0, 1], [1, 2, 5]])
def test_an_owner_gets_its_channels_in_turns(pool, colours, channels):
    granules = take(pool, 12, channels)
    wanted = tuple(channels or range(CHANNELS))
    assert granules.channels == wanted
    found = colours_of(granules, colours)
    assert granules.table.dtype == np.int32
    assert len(set(granules.table.tolist())) == 12
    counts = np.bincount(found, minlength=CHANNELS)
    assert {counts[c] for c in wanted} == {12 // len(wanted)}
    for before, after in pairwise(found.tolist()):
        k = wanted.index(before)
        assert after == wanted[(k + 1) % len(wanted)]


def test_small_ones_do_not_all_begin_in_one_channel(pool, colours):
    held = [take(pool, 1) for _ in range(2 * CHANNELS)]
    found = [int(colours_of(granules, colours)[0]) for granules in held]
    assert np.bincount(found).tolist() == [2] * CHANNELS


def test_a_part_of_a_granule_is_a_granule(pool):
    granules = pool.allocate(GRANULE + 1, [2])
    assert granules is not None
    assert (granules.size_bytes, len(granules.table)) == (GRANULE + 1, 2)
    assert pool.stats()["requested_bytes"] == GRANULE + 1


def test_pages_come_as_they_are_needed_and_go_back(arena, pool):
    assert arena.stats()["used_bytes"] == 0
    first = take(pool, PER_PAGE)
    second = take(pool, 3)
    assert arena.stats()["used_bytes"] == 2 * PAGE
    assert len(set(first.table // PER_PAGE)) == len(set(second.table // PER_PAGE)) == 1
    first.release()
    assert arena.stats()["used_bytes"] == PAGE
    assert pool.stats()["pages"] == 1
    del second
    assert arena.stats()["used_bytes"] == arena.stats()["pins"] == 0
    assert arena.stats()["largest_free_bytes"] == PAGES * PAGE


def test_blocks_and_granules_share_the_arena(arena, pool):
    blocks = [arena.allocate(PAGE // 2 + 64) for _ in range(4)]
    granules = take(pool, 2 * PER_PAGE)
    # Behind the blocks, which end within the third page.
    assert set(granules.table // PER_PAGE) == {3, 4}
    content = written(arena, pool, granules, 5)
    rest = arena.allocate(3 * PAGE)
    assert rest is not None
    assert rest.offset == 5 * PAGE
    assert pool.allocate(GRANULE) is None
    assert pool.stats()["failures"] == 1
    # What is compacted goes around the pages.
    blocks.clear()
    assert arena.compact() == 3 * PAGE
    assert rest.offset == 0
    assert set(granules.table // PER_PAGE) == {3, 4}
    assert read(arena, pool, granules) == content
    assert pool.allocate(GRANULE) is not None


def test_a_page_is_taken_from_a_small_hole(arena, pool):
    first, second, rest = (arena.allocate(size) for size in (PAGE + PAGE // 2, PAGE // 2, PAGE))
    assert first is not None
    first.release()
    # A hole of a page and a half, and a large one behind the others.
    assert set(take(pool, 1).table // PER_PAGE) == {0}
    assert second is not None
    assert rest is not None
    assert arena.stats()["largest_free_bytes"] == (PAGES - 3) * PAGE


def test_room_is_made_for_several_pages(arena, pool):
    blocks = [arena.allocate(PAGE // 2) for _ in range(2 * PAGES)]
    for k, block in enumerate(blocks):
        assert block is not None
        block.array(0, (8,), "uint8")[:] = k
    del block
    kept = blocks[::2]
    blocks.clear()
    assert pool.allocate(3 * PAGE) is None
    assert not pool.make_room(3 * PAGE, most_bytes=0)
    assert pool.make_room(3 * PAGE)
    granules = pool.allocate(3 * PAGE)
    assert granules is not None
    assert not pool.make_room(2 * PAGE)
    assert [b.array(0, (8,), "uint8")[0] for b in kept if b] == [*range(0, 2 * PAGES, 2)]
    assert pool.make_room(GRANULE) == (pool.allocate(GRANULE) is not None)


def test_granules_are_used_up_before_a_page_is_taken(pool, colours):
    of_channel = int((colours[0] == 0).sum())
    take_all = take(pool, of_channel, [0])
    assert pool.stats()["pages"] == 1
    # There are none of channel 0 left, so the others take more.
    others = take(pool, PER_PAGE - of_channel)
    assert pool.stats()["pages"] == 1
    assert 0 not in colours_of(others, colours)
    one = take(pool, 1, [0])
    assert pool.stats()["pages"] == 2
    assert (take_all.state, one.state) == ("live", "live")


def test_stats_count_by_channel(pool, colours):
    granules = take(pool, 7, [1, 4])
    stats = pool.stats()
    assert stats["used_granules"] == [0, 4, 0, 0, 3, 0]
    of_page = np.bincount(colours[0], minlength=CHANNELS)
    assert stats["free_granules"] == (of_page - stats["used_granules"]).tolist()
    assert (stats["live"], stats["waiting"], stats["pins"]) == (1, 0, 0)
    granules.pin()
    granules.release()
    stats = pool.stats()
    assert (stats["live"], stats["waiting"], stats["pins"]) == (0, 1, 1)


def test_what_a_launch_uses_is_not_reused(pool):
    granules = take(pool, PER_PAGE * PAGES)
    granules.pin()
    granules.release()
    assert granules.state == "waiting"
    assert pool.allocate(GRANULE) is None
    with pytest.raises(ValueError, match="released"):
        granules.pin()
    with pytest.raises(ValueError, match="released before"):
        granules.release()
    granules.unpin()
    assert granules.state == "free"
    assert len(granules.table) == 0
    with pytest.raises(ValueError, match="no pin"):
        granules.unpin()
    assert pool.allocate(GRANULE) is not None


def test_recolouring_moves_what_has_to_and_keeps_the_bytes(arena, pool, colours):
    granules = take(pool, 24)
    content = written(arena, pool, granules, 1)
    before, version = granules.table, granules.version
    assert pool.recolour(granules, [0, 1])
    assert granules.channels == (0, 1)
    assert np.bincount(colours_of(granules, colours)).tolist() == [12, 12]
    assert read(arena, pool, granules) == content
    assert granules.version == version + 1
    stayed = before == granules.table
    assert stayed.tolist() == (colours.reshape(-1)[before] < 2).tolist()
    assert pool.stats()["moved_granules"] == 16
    # And back: each channel keeps no more than its part.
    assert pool.recolour(granules, None)
    assert np.bincount(colours_of(granules, colours)).tolist() == [4] * CHANNELS
    assert read(arena, pool, granules) == content
    assert pool.recolour(granules, None)
    assert granules.version == version + 2


def test_granules_in_use_are_not_recoloured(pool):
    granules = take(pool, 12)
    before = granules.table
    granules.pin()
    assert not pool.recolour(granules, [0])
    assert granules.channels == tuple(range(CHANNELS))
    np.testing.assert_array_equal(granules.table, before)
    granules.unpin()
    assert pool.recolour(granules, [0])
    granules.release()
    assert not pool.recolour(granules, [1])


def test_recolouring_without_room_changes_nothing(arena, pool):
    granules = take(pool, PAGES * PER_PAGE)
    before = granules.table
    assert not pool.recolour(granules, [0, 1])
    np.testing.assert_array_equal(granules.table, before)
    assert granules.version == 0
    assert arena.stats()["free_bytes"] == 0


def test_gathering_gives_sparse_pages_back(arena, pool, colours):
    held = [take(pool, PER_PAGE) for _ in range(6)]
    kept = [take(pool, 3, [0, 5]) for _ in range(2)]
    content = [written(arena, pool, one, k) for k, one in enumerate(kept)]
    del held
    # Six granules of two channels lie on whatever page had some.
    assert pool.stats()["pages"] >= 1
    more = take(pool, PER_PAGE, [1, 2, 3, 4])
    sparse = pool.stats()["pages"]
    more_content = written(arena, pool, more, 9)
    assert pool.gather() == 0
    assert pool.stats()["pages"] == sparse
    parts = [take(pool, PER_PAGE // 2) for _ in range(2 * PAGES - 2 * sparse)]
    parts_content = [written(arena, pool, one, 20 + k) for k, one in enumerate(parts)]
    dropped = parts[::2]
    parts, parts_content = parts[1::2], parts_content[1::2]
    dropped.clear()
    before = pool.stats()["pages"]
    gone = pool.gather()
    assert gone > 0
    assert pool.stats()["pages"] == before - gone
    for one, had in zip(
        [*kept, more, *parts], [*content, more_content, *parts_content], strict=True
    ):
        assert read(arena, pool, one) == had
        assert set(colours_of(one, colours)) <= set(one.channels)


def test_gathering_leaves_what_a_launch_uses(pool):
    full, sparse = take(pool, PER_PAGE), take(pool, 2)
    half = take(pool, PER_PAGE // 2)
    sparse.pin()
    half.pin()
    tables = sparse.table, half.table
    del full
    pool.gather()
    np.testing.assert_array_equal(sparse.table, tables[0])
    np.testing.assert_array_equal(half.table, tables[1])
    sparse.unpin()
    half.unpin()


def test_a_link_copies_into_granules(arena, pool, make_link):
    granules = pool.allocate(10 * GRANULE - 5, [0, 2])
    assert granules is not None
    content = np.random.default_rng(3).integers(0, 256, granules.size_bytes, np.uint8)
    granules.pin()
    ranges = [
        (granule * GRANULE, k * GRANULE, min(GRANULE, len(content) - k * GRANULE))
        for k, granule in enumerate(granules.table.tolist())
    ]
    copy = make_link().flow("tenant").copy_many((arena.address, granules), content, ranges)
    assert copy.wait(60)
    assert copy.error is None
    granules.unpin()
    assert read(arena, pool, granules)[: len(content)] == content.tobytes()


def test_a_view_of_a_block_is_untouched_by_pages(arena, pool):
    block = arena.allocate(PAGE)
    assert block is not None
    (view,) = block.views(ViewLayout([(0, (16,), "uint8")]), lambda capsule: capsule)
    address = block.address
    held = [take(pool, PER_PAGE) for _ in range(PAGES - 1)]
    assert pool.allocate(GRANULE) is None
    pool.gather()
    assert block.address == address
    assert (len(held), view is not None) == (PAGES - 1, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"granule_bytes": 48 * KIB}, "power of two"),
        ({"granule_bytes": 32}, "power of two from 64"),
        ({"granule_bytes": 64 * KIB}, "a page has 32 of 65536 bytes"),
        ({"channels": 0}, "1 to 256"),
        ({"channels": 257}, "1 to 256"),
        ({"channels": -1}, "channels is -1"),
        ({"channels": 5}, "lies in channel 5, and there are 5"),
        ({"colours": np.zeros((PAGES - 1, PER_PAGE), np.uint8)}, "7 pages, and the arena 8"),
        ({"colours": np.zeros(PER_PAGE, np.uint8)}, "1 axes"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(arena, colours, change, message):
    arguments = {"colours": colours, "granule_bytes": GRANULE, "channels": CHANNELS} | change
    with pytest.raises(ValueError, match=message):
        GranulePool(arena, **arguments)


def test_bad_sizes_and_channels_are_refused(arena, pool, colours):
    for size in (0, PAGES * PAGE + 1):
        with pytest.raises(ValueError, match="they must be 1 to"):
            pool.allocate(size)
    with pytest.raises(ValueError, match="must not be negative"):
        pool.allocate(-1)
    for channels in ([CHANNELS], [2, 1], [1, 1], [-1], [300]):
        with pytest.raises(ValueError, match="ascending and below 6"):
            pool.allocate(GRANULE, channels)
    with pytest.raises(ValueError, match="no channel"):
        pool.allocate(GRANULE, [])
    other = GranulePool(arena, colours, GRANULE, CHANNELS)
    granules = other.allocate(GRANULE)
    assert granules is not None
    with pytest.raises(ValueError, match="another pool"):
        pool.recolour(granules, None)


def test_a_channel_that_pages_lack_is_not_looked_for_forever(arena):
    pool = GranulePool(arena, np.zeros((PAGES, PER_PAGE), np.uint8), GRANULE, 2)
    assert pool.allocate(GRANULE, [1]) is None
    assert arena.stats()["used_bytes"] == 0
    assert pool.allocate(GRANULE, [0, 1]) is not None
    pool.check()


def test_the_last_owner_keeps_pool_and_arena(colours):
    arena = Arena(PAGES * PAGE, prefault=False)
    granules = GranulePool(arena, colours, GRANULE, CHANNELS).allocate(3 * GRANULE)
    assert granules is not None
    assert arena.stats()["used_bytes"] == PAGE
    del granules
    assert arena.stats()["used_bytes"] == 0


def test_threads_share_a_pool(arena, pool):
    done = threading.Event()

    def use(seed: int) -> int:
        rng = np.random.default_rng(seed)
        mine: list[tuple[Granules, bytes]] = []
        taken = 0
        for step in range(150):
            channels = sorted(rng.choice(CHANNELS, rng.integers(1, CHANNELS + 1), replace=False))
            one = pool.allocate(int(rng.integers(1, 20)) * GRANULE, [int(c) for c in channels])
            if one is not None:
                one.pin()
                mine.append((one, written(arena, pool, one, step)))
                one.unpin()
                taken += 1
            if mine and (one is None or len(mine) > 5):
                old, content = mine.pop(int(rng.integers(len(mine))))
                old.pin()
                assert read(arena, pool, old) == content
                old.unpin()
        return taken

    def move() -> None:
        mine = take(pool, 8)
        content = written(arena, pool, mine, 99)
        for turn in range(1 << 20):
            if done.is_set():
                break
            pool.gather()
            pool.recolour(mine, [turn % CHANNELS])
            pool.check()
            mine.pin()
            assert read(arena, pool, mine) == content
            mine.unpin()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as threads:
            moving = threads.submit(move)
            taken = [f.result() for f in [threads.submit(use, seed) for seed in range(2)]]
            done.set()
            moving.result()
    finally:
        done.set()
        sys.setswitchinterval(interval)
    assert min(taken) > 0
    assert pool.stats()["moved_granules"] > 0
    assert arena.stats()["used_bytes"] == 0
