"""An arena in a GPU's memory, on the fake CUDA driver: a host that touched it would crash."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fake_driver import Bus, FakeDriver, tensor_of

from missile_jax._native import Arena, Block, ViewLayout

KIB = 1 << 10
MIB = 1 << 20


class Card:
    """A device with an arena of 4 MiB, and a bus to see what is in it."""

    def __init__(self, driver: FakeDriver, ordinal: int = 0) -> None:
        self.device = driver.device(ordinal)
        self.arena = Arena.on_cuda(self.device, 4 * MIB)
        self.bus = Bus(self.device)

    def take(self, size_bytes: int, near: Block | None = None) -> Block:
        block = self.arena.allocate(size_bytes, near)
        assert block is not None
        return block

    def filled(self, size_bytes: int, seed: int) -> tuple[Block, np.ndarray]:
        block = self.take(size_bytes)
        content = np.random.default_rng(seed).integers(0, 256, size_bytes, np.uint8)
        self.bus.write(block, content)
        return block, content


@pytest.fixture
def card(driver):
    """Closed before the driver is looked at."""
    one = Card(driver)
    yield one
    one.bus.close()
    vars(one).clear()  # Pytest keeps a fixture longer than the driver.


@pytest.mark.smoke
@pytest.mark.parametrize("alignment", [64, 256, 2 * MIB])
def test_blocks_start_at_the_alignment(driver, alignment):
    arena = Arena.on_cuda(driver.device(1), 3 * alignment, alignment)
    assert arena.address % (2 * MIB) == 0
    assert arena.dlpack_device == (2, 1)
    blocks = [arena.allocate(size) for size in (1, alignment, alignment - 1)]
    assert [b.address - arena.address for b in blocks] == [0, alignment, 2 * alignment]
    assert arena.allocate(1) is None
    arena.check()


def test_blocks_are_apart_by_256_bytes_unless_told_otherwise(card):
    assert card.arena.alignment == 256


@pytest.mark.parametrize(
    ("size_bytes", "alignment", "error", "message"),
    [
        (0, 256, ValueError, "size_bytes is 0"),
        (-1, 256, ValueError, "size_bytes is -1"),
        (KIB, 96, ValueError, "alignment is 96"),
        (1 << 60, 256, MemoryError, "more than any GPU"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(driver, size_bytes, alignment, error, message):
    device = driver.device()
    with pytest.raises(error, match=message):
        Arena.on_cuda(device, size_bytes, alignment)


def test_a_gpu_that_is_full_is_a_memory_error(driver):
    device = driver.device()
    driver.limit(8 * MIB)
    kept = Arena.on_cuda(device, 5 * MIB)
    with pytest.raises(MemoryError, match=r"cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY.*XLA"):
        Arena.on_cuda(device, MIB)
    del kept
    gc.collect()
    assert Arena.on_cuda(device, 5 * MIB).size_bytes == 5 * MIB


def test_a_block_moves_with_its_bytes(card):
    before = card.take(64 * KIB)
    block, content = card.filled(64 * KIB - 17, 1)
    before.release()
    assert card.arena.move(block)
    assert block.offset == 0
    np.testing.assert_array_equal(card.bus.read(block), content)
    card.arena.check()


@pytest.mark.parametrize("gap", [256, 4 * KIB, MIB - 256, MIB, MIB + 256])
@pytest.mark.parametrize("size_bytes", [1000, MIB, 2 * MIB + 12_345])
def test_a_block_slides_over_its_own_bytes(card, gap, size_bytes):
    before = card.take(gap)
    block, content = card.filled(size_bytes, 2)
    before.release()
    assert card.arena.move(block)
    assert block.offset == 0
    np.testing.assert_array_equal(card.bus.read(block), content)
    card.arena.check()


def test_compacting_leaves_one_hole_and_every_byte(card):
    blocks = [card.filled(100 * KIB + 256 * k, k) for k in range(30)]
    for block, _ in blocks[::2]:
        block.release()
    assert card.arena.compact() == card.arena.stats()["moved_bytes"] > 0
    assert card.arena.stats()["fragmentation"] == 0
    for block, content in blocks[1::2]:
        np.testing.assert_array_equal(card.bus.read(block), content)
    card.arena.check()


def test_threads_move_blocks_at_once(card):
    blocks = [card.filled(32 * KIB, k) for k in range(40)]
    for block, _ in blocks[::3]:
        block.release()
    kept = [pair for k, pair in enumerate(blocks) if k % 3]
    with ThreadPoolExecutor(4) as pool:
        moved = list(pool.map(card.arena.move, [block for block, _ in kept]))
    assert any(moved)
    for block, content in kept:
        np.testing.assert_array_equal(card.bus.read(block), content)
    card.arena.check()


def test_a_move_that_fails_leaves_the_block_as_it_was(driver, card):
    before = card.take(64 * KIB)
    block, content = card.filled(64 * KIB, 3)
    before.release()
    for call in ("cuCtxPushCurrent_v2", "cuMemcpyDtoDAsync_v2", "cuEventRecord"):
        driver.fail(call, 1)
        with pytest.raises(RuntimeError, match=f"{call}: CUDA_ERROR_ILLEGAL_ADDRESS"):
            card.arena.move(block)
        card.arena.check()
        assert block.offset == 64 * KIB
        np.testing.assert_array_equal(card.bus.read(block), content)
    assert card.arena.move(block)
    np.testing.assert_array_equal(card.bus.read(block), content)


def test_a_slide_that_fails_half_way_loses_the_block_and_says_so(driver, card):
    before = card.take(256)
    block, _ = card.filled(2 * MIB, 4)
    before.release()
    driver.fail("cuMemcpyDtoDAsync_v2", 3)
    with pytest.raises(RuntimeError, match="cuMemcpyDtoDAsync_v2"):
        card.arena.compact()
    with pytest.raises(RuntimeError, match="bytes were lost"):
        block.pin()
    with pytest.raises(RuntimeError, match="bytes were lost"):
        block.views(ViewLayout([(0, (1,), "int8")]), lambda capsule: capsule)
    block.release()
    assert card.arena.stats()["largest_free_bytes"] == 4 * MIB
    card.arena.check()


def test_a_view_names_the_device(driver):
    arena = Arena.on_cuda(driver.device(1), MIB)
    block = arena.allocate(4096)
    (capsule,) = block.views(ViewLayout([(256, (3, 5), "float16")]), lambda capsule: capsule)
    tensor = tensor_of(capsule)
    assert (tensor.device_type, tensor.device_id) == (2, 1)
    assert tensor.data + tensor.byte_offset == block.address + 256
    assert (tensor.code, tensor.bits, tensor.lanes) == (2, 16, 1)
    assert tensor.shape[: tensor.ndim] == [3, 5]
    block.release()
    assert block.state == "waiting"
    del capsule
    assert block.state == "free"


def test_numpy_is_kept_from_a_gpus_memory(card):
    with pytest.raises(ValueError, match=r"lies on a GPU.*views"):
        card.take(64).array(0, (4,), "int8")


def test_views_and_blocks_keep_the_memory(driver):
    block = Arena.on_cuda(driver.device(), MIB).allocate(KIB)
    gc.collect()
    assert "1 device allocations" in driver.leaks()
    (view,) = block.views(ViewLayout([(0, (4,), "int8")]), lambda capsule: capsule)
    del block
    gc.collect()
    assert "1 device allocations" in driver.leaks()
    del view
    assert driver.leaks() == ""


def test_an_arena_of_pinned_memory_is_the_hosts_and_the_bus_takes_it_as_it_is(driver, card):
    pinned = Arena.pinned(card.device, MIB)
    assert (pinned.dlpack_device, pinned.alignment) == ((1, 0), 256)
    assert pinned.address % (2 * MIB) == 0
    hole, block = pinned.allocate(100 * KIB), pinned.allocate(MIB - 100 * KIB)
    assert pinned.allocate(1) is None
    content = np.random.default_rng(5).integers(0, 256, block.size_bytes, np.uint8)
    block.array(0, (block.size_bytes,), np.uint8)[:] = content
    hole.release()
    assert pinned.compact() == block.size_bytes
    array = block.array(0, (block.size_bytes,), np.uint8)
    np.testing.assert_array_equal(array, content)
    there = card.take(block.size_bytes)
    before = driver.calls("cuMemcpyHtoDAsync_v2")
    card.bus.write(there, array)
    # A copy for each chunk of the link, not for each buffer that it would be staged in.
    assert driver.calls("cuMemcpyHtoDAsync_v2") - before == 1
    np.testing.assert_array_equal(card.bus.read(there), content)
    block.release()
    assert (pinned.free_bytes, block.state) == (100 * KIB, "waiting")
    del array
    assert (pinned.free_bytes, block.state) == (MIB, "free")


def test_pinned_memory_that_is_not_to_be_had_is_a_memory_error(driver):
    device = driver.device()
    driver.fail("cuMemHostAlloc", 1, 2)
    with pytest.raises(MemoryError, match="cuMemHostAlloc"):
        Arena.pinned(device, MIB)
