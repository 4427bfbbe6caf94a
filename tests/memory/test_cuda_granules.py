"""Granules in a GPU's memory, on the fake CUDA driver."""

import gc

import numpy as np
import pytest
from fake_driver import FakeDriver, finish
from granule_maps import KIB, PAGE, random_colours

from missile_jax._native import Arena, GranulePool, Granules, Link

GRANULE = 128 * KIB


class Card:
    """A pool of four pages, and links to fill granules and to see what is in them."""

    def __init__(self, driver: FakeDriver) -> None:
        device = driver.device()
        self.arena = Arena.on_cuda(device, 4 * PAGE)
        self.pool = GranulePool(self.arena, random_colours(4, GRANULE, 4), GRANULE, 4)
        self.up, self.down = Link(cuda=device), Link(cuda=device, to_host=True)
        self.flows = (self.up.flow("test"), self.down.flow("test"))

    def write(self, granules: Granules, content: np.ndarray) -> None:
        ranges = [
            (g * GRANULE, k * GRANULE, GRANULE) for k, g in enumerate(granules.table.tolist())
        ]
        finish(self.flows[0].copy_many((self.arena.address, granules), content, ranges))

    def read(self, granules: Granules) -> np.ndarray:
        content = np.empty(granules.size_bytes, np.uint8)
        ranges = [
            (k * GRANULE, g * GRANULE, GRANULE) for k, g in enumerate(granules.table.tolist())
        ]
        finish(self.flows[1].copy_many(content, (self.arena.address, granules), ranges))
        return content


@pytest.fixture
def card(driver):
    """Closed before the driver is looked at."""
    one = Card(driver)
    yield one
    one.pool.check()
    one.up.close()
    one.down.close()
    vars(one).clear()
    gc.collect()


def filled(card: Card, count: int) -> tuple[Granules, np.ndarray]:
    granules = card.pool.allocate(count * GRANULE)
    assert granules is not None
    content = np.random.default_rng(count).integers(0, 256, count * GRANULE, np.uint8)
    card.write(granules, content)
    return granules, content


def test_recoloured_granules_have_their_bytes(card):
    granules, content = filled(card, 10)
    assert card.pool.recolour(granules, [1])
    assert card.pool.stats()["used_granules"] == [0, 10, 0, 0]
    np.testing.assert_array_equal(card.read(granules), content)


def test_a_move_that_fails_leaves_the_granules_as_they_were(driver, card):
    granules, content = filled(card, 10)
    before = granules.table
    pages = card.pool.stats()["pages"]
    for call, nth in [
        ("cuCtxPushCurrent_v2", 1),
        ("cuMemcpyDtoDAsync_v2", 3),
        ("cuEventRecord", 1),
    ]:
        driver.fail(call, nth)
        with pytest.raises(RuntimeError, match=f"{call}: CUDA_ERROR_ILLEGAL_ADDRESS"):
            card.pool.recolour(granules, [2])
        np.testing.assert_array_equal(granules.table, before)
        assert granules.channels == (0, 1, 2, 3)
        assert card.pool.stats()["pages"] == pages
        card.pool.check()
        np.testing.assert_array_equal(card.read(granules), content)
    assert card.pool.recolour(granules, [2])
    np.testing.assert_array_equal(card.read(granules), content)


def test_gathering_that_fails_gives_no_page_back(driver, card):
    # Half of each of two pages.
    parts = [filled(card, 8) for _ in range(4)]
    for granules, _ in parts[::2]:
        granules.release()
    kept = parts[1::2]
    assert card.pool.stats()["pages"] == 2
    driver.fail("cuMemcpyDtoDAsync_v2", 2)
    with pytest.raises(RuntimeError, match="cuMemcpyDtoDAsync_v2"):
        card.pool.gather()
    assert card.pool.stats()["pages"] == 2
    card.pool.check()
    assert card.pool.gather() == 1
    for granules, content in kept:
        np.testing.assert_array_equal(card.read(granules), content)
