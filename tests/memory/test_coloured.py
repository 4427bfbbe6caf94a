"""Tensors by a channel plan, on a real arena with random maps."""

import numpy as np
import pytest
from granule_maps import KIB, PAGE, colours_of, random_colours, read, written

from missile_jax._native import Arena
from missile_jax.coloring.plan import ChannelPlan
from missile_jax.coloring.published import published
from missile_jax.coloring.random_maps import random_permuted_map
from missile_jax.errors import ConfigError, DeviceMemoryError
from missile_jax.memory.coloured import ColouredMemory, Tensor, colour_table
from missile_jax.spec import Priority

LS, BE = Priority.LATENCY, Priority.BEST_EFFORT
GRANULE = 16 * KIB
PAGES, CHANNELS = 12, 12
OWN = ChannelPlan.by_class(CHANNELS, latency_alone=True)


@pytest.fixture
def colours():
    return random_colours(PAGES, GRANULE, CHANNELS)


@pytest.fixture
def arena():
    return Arena(PAGES * PAGE, prefault=False)


@pytest.fixture
def memory(arena, colours):
    made = ColouredMemory(arena, colours, GRANULE, OWN)
    yield made
    made.pool.check()
    arena.check()


def channels(tensor: Tensor, colours: np.ndarray) -> set[int]:
    return set(colours_of(tensor.granules, colours).tolist())


@pytest.mark.smoke
def test_classes_and_tenants_lie_in_their_channels(memory, colours):
    tensors = [memory.place("a", LS, 40 * GRANULE), memory.place("b", BE, 40 * GRANULE)]
    assert [channels(t, colours) for t in tensors] == [set(range(4, 12)), set(range(4))]
    plan = ChannelPlan(CHANNELS, range(12), [0, 1], {"c": [11]})
    assert memory.replan(plan) == 0
    tensors.append(memory.place("c", LS, 3 * GRANULE))
    assert [t.granules.channels for t in tensors] == [tuple(range(12)), (0, 1), (11,)]
    assert [channels(t, colours) for t in tensors[1:]] == [{0, 1}, {11}]
    assert memory.stats()["astray"] == 0


def test_a_new_plan_moves_tensors_with_their_bytes(arena, memory, colours):
    tensors = [memory.place("t", priority, 30 * GRANULE) for priority in (LS, BE) * 3]
    contents = [written(arena, memory.pool, t.granules, k) for k, t in enumerate(tensors)]
    swapped = ChannelPlan(CHANNELS, OWN.best_effort, OWN.latency)
    assert memory.replan(swapped) == 0
    for tensor, content in zip(tensors, contents, strict=True):
        assert channels(tensor, colours) == set(swapped.of("t", tensor.priority))
        assert read(arena, memory.pool, tensor.granules) == content


def test_what_a_launch_uses_is_moved_when_it_has_ended(memory, colours):
    tensor, other = memory.place("t", BE, 20 * GRANULE), memory.place("t", BE, 20 * GRANULE)
    tensor.granules.pin()
    before = tensor.granules.table
    assert memory.replan(ChannelPlan(CHANNELS, [0], [1])) == 1
    assert memory.stats()["astray"] == 1
    np.testing.assert_array_equal(tensor.granules.table, before)
    assert channels(other, colours) == {1}
    assert memory.settle() == 1
    tensor.granules.unpin()
    assert memory.settle() == 0
    assert channels(tensor, colours) == {1}


def test_without_room_to_move_a_tensor_stays_and_counts_as_astray(arena, memory, colours):
    per_page = PAGE // GRANULE
    all_channels = ChannelPlan(CHANNELS, range(12), range(12))
    memory.replan(all_channels)
    tensors = [memory.place("t", BE, per_page * GRANULE) for _ in range(PAGES)]
    assert arena.free_bytes == 0
    contents = [written(arena, memory.pool, t.granules, k) for k, t in enumerate(tensors)]
    assert memory.replan(OWN) == PAGES
    for tensor, content in zip(tensors, contents, strict=True):
        assert read(arena, memory.pool, tensor.granules) == content
    for tensor in tensors[4:]:
        memory.remove(tensor)
    assert memory.settle() == 0
    assert all(channels(t, colours) == set(range(4)) for t in tensors[:4])


def test_room_is_made_among_blocks_and_sparse_pages(arena, memory):
    blocks = [arena.allocate(PAGE // 2) for _ in range(2 * PAGES)]
    kept = blocks[::2]
    blocks.clear()
    tensors = [memory.place("t", LS, PAGE // 2) for _ in range(5)]
    with pytest.raises(DeviceMemoryError, match=r"tenant 't': .* its 4 of 12 channels"):
        memory.place("t", BE, 5 * PAGE)
    for tensor in tensors[1:]:
        memory.remove(tensor)
    assert memory.place("t", LS, 2 * PAGE).granules.state == "live"
    assert len(kept) == PAGES


def test_stats_tell_what_is_wasted(memory):
    assert memory.stats()["waste"] == 0
    # A third of the channels: twice as much again is left free, by the plan.
    tensor = memory.place("t", BE, 2 * PAGE - 1)
    stats = memory.stats()
    assert stats["needed_pages"] == 6
    assert stats["pages"] in (6, 7)
    assert stats["utilisation"] == pytest.approx(2 / stats["pages"])
    assert stats["padding"] == pytest.approx(1 / (2 * PAGE))
    assert sum(stats["used_granules"][4:]) == 0
    # LS fills what BE left, and needs no page.
    memory.place("t", LS, 3 * PAGE)
    assert memory.stats()["pages"] == stats["pages"]
    memory.remove(tensor)
    assert memory.stats()["needed_pages"] == 5


@pytest.mark.parametrize(
    "channel_map",
    [published("gtx1080").channels, random_permuted_map(np.random.default_rng(1), 12)],
)
def test_real_families_of_maps_are_kept_to(channel_map):
    rng = np.random.default_rng(0)
    states = rng.integers(0, channel_map.states, PAGES).tolist()
    table = colour_table(channel_map, states)
    plan = ChannelPlan.by_class(channel_map.channels, latency_alone=True)
    memory = ColouredMemory(
        Arena(PAGES * PAGE, prefault=False), table, channel_map.granule_bytes, plan
    )
    tensors = [memory.place("t", priority, PAGE) for priority in (LS, BE, LS)]
    for tensor in tensors:
        granules = tensor.granules.table
        pages, places = np.divmod(granules, PAGE // channel_map.granule_bytes)
        found = {int(channel_map.colours(states[p])[g]) for p, g in zip(pages, places, strict=True)}
        assert found == set(plan.of("t", tensor.priority))
    memory.pool.check()


def test_a_plan_of_other_channels_is_refused(arena, memory, colours):
    with pytest.raises(ConfigError, match="for 6 channels, the device has 12"):
        memory.replan(ChannelPlan.by_class(6))
    with pytest.raises(ConfigError, match="there are 6"):
        ColouredMemory(arena, colours, GRANULE, ChannelPlan.by_class(6))
