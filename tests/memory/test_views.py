"""memory.views: capsules become arrays without a copy, by JAX's private and its public way."""

import gc
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missile_jax._native import Arena, ViewLayout
from missile_jax.memory import views


@pytest.fixture(params=["private", "public"])
def make(request):
    device = jax.devices("cpu")[0]
    if request.param == "public":
        return partial(views._public, device)
    return views.array_maker(device)


@pytest.mark.smoke
def test_an_array_shows_the_block_and_holds_it(make):
    arena = Arena(1 << 20)
    block = arena.allocate(4096)
    block.array(0, (8,), np.dtype(np.float32))[:] = np.arange(8)
    block.array(64, (2, 3), np.dtype(np.int32))[:] = 7
    layout = ViewLayout([(0, (8,), np.dtype(np.float32)), (64, (2, 3), np.dtype(np.int32))])
    gc.collect()
    first, second = block.views(layout, make)
    assert first.unsafe_buffer_pointer() == block.address
    assert second.unsafe_buffer_pointer() == block.address + 64
    np.testing.assert_array_equal(jax.jit(lambda x: x + 1)(first), np.arange(8) + 1)
    assert second.shape == (2, 3)
    assert second.dtype == jnp.int32
    assert arena.stats()["views"] == 2
    block.release()
    assert block.state == "waiting"
    del first, second
    gc.collect()
    assert block.state == "free"


@pytest.mark.smoke
def test_the_quick_way_is_known_to_this_version_of_jax():
    # Else every swap-in would fall back to the slow one, and nobody would notice.
    assert views.array_maker(jax.devices("cpu")[0]).func is views._private
