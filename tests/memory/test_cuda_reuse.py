"""When a block of a GPU's memory may be used again, on the fake CUDA driver.

XLA ends its hold on a buffer once the last launch that reads it has been enqueued, which on a GPU
is long before it has run. So the end of a view says nothing: a launch pins its blocks until its own
end has been observed.
"""

import random
from collections import deque

import numpy as np
import pytest
from fake_driver import Bus, ComputeStream, FakeDriver

from missile_jax._native import Arena, Block, ViewLayout

SIZE = 64 << 10


class Card:
    """A device whose arena holds `models` models of SIZE bytes."""

    def __init__(self, driver: FakeDriver, models: int) -> None:
        device = driver.device()
        self.arena = Arena.on_cuda(device, models * SIZE)
        self.bus = Bus(device)

    def swap_in(self, value: int) -> Block | None:
        """A model that consists of `value`s, or None if there is no room."""
        block = self.arena.allocate(SIZE)
        if block is not None:
            self.bus.write(block, np.full(SIZE, value, np.uint8))
        return block


@pytest.fixture
def card(driver):
    one = Card(driver, models=1)
    yield one
    one.bus.close()
    vars(one).clear()  # Pytest keeps a fixture longer than the driver.


def launch(compute: ComputeStream, block: Block):
    """Enqueues a kernel that reads a view, which then ends as XLA ends it: at once."""
    (view,) = block.views(ViewLayout([(0, (SIZE,), "uint8")]), lambda capsule: capsule)
    total = compute.launch_sum(block.address, SIZE)
    del view
    return total


@pytest.mark.smoke
def test_a_pinned_block_is_not_used_again_before_its_launch_has_run(driver, card):
    with driver.compute() as compute:
        first = card.swap_in(1)
        compute.hold()
        first.pin()
        total = launch(compute, first)
        first.release()
        assert first.state == "waiting"
        assert card.swap_in(2) is None
        compute.let_go()
        compute.synchronize()
        first.unpin()
        assert first.state == "free"
        assert card.swap_in(2) is not None
        compute.synchronize()
        assert total.value == 1 * SIZE


def test_without_a_pin_a_late_launch_reads_the_next_models_bytes(driver, card):
    """The control: what the pin is for does go wrong without it, and the fake driver shows it."""
    with driver.compute() as compute:
        first = card.swap_in(1)
        compute.hold()
        total = launch(compute, first)
        first.release()
        assert first.state == "free"
        assert card.swap_in(2) is not None
        compute.let_go()
        compute.synchronize()
        assert total.value == 2 * SIZE


def test_a_pinned_block_does_not_move_from_under_its_launch(driver):
    card = Card(driver, models=2)
    with driver.compute() as compute:
        hole, block = card.swap_in(7), card.swap_in(1)
        hole.release()
        compute.hold()
        block.pin()
        total = launch(compute, block)
        assert card.arena.compact() == 0
        compute.let_go()
        compute.synchronize()
        block.unpin()
        assert card.arena.compact() == SIZE
        assert total.value == 1 * SIZE
        assert (card.bus.read(block) == 1).all()
    card.bus.close()


def swap_through(driver: FakeDriver, seed: int, *, pins: bool) -> int:
    """Serves 150 launches of ever new models in an arena for three; returns how many went wrong."""
    rng = random.Random(seed)
    driver.delays(seed, 500)
    card = Card(driver, models=3)
    wrong = 0
    with driver.compute() as compute:
        flying: deque = deque()

        def land() -> None:
            nonlocal wrong
            compute.synchronize()
            while flying:
                block, total, value = flying.popleft()
                wrong += total.value != value * SIZE
                if pins:
                    block.unpin()

        for value in range(1, 151):
            block = card.swap_in(value)
            if block is None or rng.random() < 0.2:
                land()
            if block is None:
                block = card.swap_in(value)
            if pins:
                block.pin()
            flying.append((block, launch(compute, block), value))
            block.release()
            card.arena.check()
        land()
    card.bus.close()
    return wrong


@pytest.mark.parametrize("seed", range(3))
def test_models_swapped_in_ceaselessly_all_answer_right(driver, seed):
    assert swap_through(driver, seed, pins=True) == 0


def test_the_same_without_pins_goes_wrong(driver):
    assert swap_through(driver, 0, pins=False) > 0
