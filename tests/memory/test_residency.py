"""memory.residency: who comes in, who leaves, and that nothing is used before it is there.

The copies are in the test's hands; arena, views and arrays are real.
"""

import threading
from collections import deque
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from missile_jax._native import Arena
from missile_jax.errors import DeviceMemoryError
from missile_jax.memory.eviction import GreedyDual, LeastRecent, LightFirst, Return
from missile_jax.memory.host import Host
from missile_jax.memory.residency import Residency
from missile_jax.memory.store import Store
from missile_jax.memory.views import array_maker
from missile_jax.program.plan import Plan, Segment

LEAF = 1 << 16  # bytes; a group each


def segment(*params):
    return Segment(None, params, (), (), (), 1000)


def plan(num_leaves, each=1):
    """Segments of so many leaves each, and the whole."""
    starts = range(0, num_leaves, each)
    segments = tuple(segment(*range(i, min(i + each, num_leaves))) for i in starts)
    return Plan(segment(*range(num_leaves)), segments, 0, (), None, True, 0.0, "")


class Bench:
    """A residency whose copies the test ends, one by one in order."""

    def __init__(self, groups_of_room, eviction=None, **quotas):
        self.lock = threading.RLock()
        self.arena = Arena(groups_of_room * LEAF, alignment=64)
        self.store = Store(LEAF, 64)
        self.host = Host(None, None, self.lock)
        self.copies = deque()
        self.cancelled = []
        self.arrivals = 0
        self.values = {}
        self.now_ns = 0
        self.residency = Residency(
            self.arena,
            self.fetch,
            self.host,
            dict.fromkeys((True, False), array_maker(jax.devices("cpu")[0])),
            self.tick,
            self.lock,
            self.arrived,
            {tenant: groups * LEAF for tenant, groups in quotas.items()},
            eviction or LightFirst(),
        )

    def tick(self):
        self.now_ns += 1
        return self.now_ns

    def arrived(self):
        self.arrivals += 1

    def fetch(self, model, first, blocks, done):
        data = model.host.data[first : first + len(blocks)]
        self.copies.append((data, blocks, done))
        return lambda: self.cancelled.append((model.name, first))

    def add(
        self,
        name,
        num_leaves,
        *,
        leaf_bytes=LEAF,
        each=1,
        heavy=False,
        delay_ns=0,
        overlaps=True,
        latency=False,
        pinned=False,
        tenant="t",
    ):
        rng = np.random.default_rng(list(name.encode()))
        shape = (num_leaves, leaf_bytes // 4)
        leaves = list(jnp.asarray(rng.standard_normal(shape), jnp.float32))
        host = self.store.put(name, leaves, range(num_leaves))
        model = self.residency.add(
            name,
            host,
            [plan(num_leaves, each)],
            latency=latency,
            tenant=tenant,
            cost=Return(heavy, delay_ns, overlaps),
            pinned=pinned,
        )
        self.values[name] = [np.asarray(x) for x in leaves]
        return model

    def parked_places(self, model):
        return self.residency.parked[False].places(model.host.groups[0].layout)

    def copy(self, count=10**6, error=None):
        for _ in range(min(count, len(self.copies))):
            data, blocks, done = self.copies.popleft()
            for content, block in zip(data, blocks, strict=True):
                if error is None and block.state == "live":
                    block.array(0, content.shape, np.dtype(np.uint8))[:] = content
            done(error)

    def copy_last(self):
        """Ends the last copy first, as a link with several threads may."""
        self.copies.rotate(1)
        self.copy(1)

    def check(self, model, one):
        with model.use(one) as arrays:
            for i in one.params:
                # A new array: JAX keeps what numpy has seen of one.
                np.testing.assert_array_equal(arrays[i] + 0, self.values[model.name][i])

    def run(self, model):
        """A request from its arrival to its end."""
        model.update(True, False, 0)
        self.copy()
        assert model.complete
        model.update(False, True, 0)
        self.check(model, segment(*range(len(model.host.groups))))
        model.update(False, False, 0)


def test_a_segment_is_ready_as_soon_as_its_own_groups_are():
    bench = Bench(8)
    model = bench.add("a", 3)
    first, second, third = (segment(i) for i in range(3))
    assert not model.can_start
    model.update(True, False, 0)
    assert not model.can_start
    assert not model.ready(first)
    bench.copy(1)
    assert model.can_start
    assert (model.ready(first), model.ready(second), model.complete) == (True, False, False)
    bench.check(model, first)
    bench.copy(1)
    assert (model.ready(second), model.ready(third)) == (True, False)
    bench.copy(1)
    assert model.complete
    bench.check(model, segment(0, 1, 2))


def test_a_model_that_is_done_sooner_whole_waits_for_all_of_its_groups():
    bench = Bench(8)
    model = bench.add("a", 3, overlaps=False)
    model.update(True, False, (0, 0))
    assert (len(bench.copies), model.can_start) == (1, False)
    bench.copy(1)
    assert (model.can_start, model.complete, bench.arrivals) == (True, True, 1)


def test_one_copy_brings_what_one_more_segment_needs():
    bench = Bench(8)
    model = bench.add("a", 5, each=2)
    model.update(True, False, (0, 0))
    assert [len(blocks) for _, blocks, _ in bench.copies] == [2, 2, 1]
    bench.copy(1)
    assert list(map(model.ready, (segment(0, 1), segment(2, 3)))) == [True, False]
    bench.check(model, segment(0, 1))
    bench.copy()
    bench.check(model, segment(0, 1, 2, 3, 4))


def test_what_is_missing_of_a_step_is_brought():
    bench = Bench(5)
    model = bench.add("a", 5, each=3)
    bench.run(model)
    bench.run(bench.add("b", 1))
    assert model.held_bytes == 4 * LEAF
    model.update(True, False, (0, 0))
    assert [len(blocks) for _, blocks, _ in bench.copies] == [1]
    bench.run(model)


def test_what_one_copy_is_to_bring_leaves_together():
    bench = Bench(8, t=5)
    model, other = bench.add("a", 5, each=2), bench.add("b", 2)
    model.update(True, False, (0, 0))
    bench.copy(1)
    model.update(False, False, (0, 0))
    other.update(True, False, (0, 0))
    # For room of two go the last one, and one of two that come together.
    assert (model.held_bytes, bench.cancelled) == (2 * LEAF, [("a", 4), ("a", 2)])
    bench.copy(2, error="the copy was cancelled")
    bench.run(other)
    bench.run(model)


def test_parameters_are_awaited_until_the_last_group_that_is_needed_is_there():
    bench = Bench(8)
    model = bench.add("a", 3)
    model.update(True, False, 0)
    bench.copy_last()
    out_of_order_ns = bench.now_ns
    bench.copy(2)
    both_ns = bench.now_ns
    assert both_ns > out_of_order_ns
    assert model.awaited_ns(segment(), 0) == 0
    assert 0 < model.awaited_ns(segment(0), 0) < model.awaited_ns(segment(0, 1), 0)
    assert model.awaited_ns(segment(2), 0) > out_of_order_ns
    assert model.awaited_ns(segment(0, 1, 2), both_ns) == 0
    assert model.awaited_ns(segment(0, 1, 2), 1) == model.awaited_ns(segment(2), 0) - 1


def test_counters_go_on_when_a_model_comes_again():
    bench = Bench(8)
    model = bench.add("a", 2)
    bench.run(model)
    bench.residency.evict(model)
    bench.residency.evict(model)
    model.discard()
    again = bench.add("a", 2)
    bench.run(again)
    (swaps,) = bench.residency.stats()["swaps"]
    assert (swaps["model"], swaps["tenant"], swaps["latency"]) == ("a", "t", False)
    assert (swaps["swap_ins"], swaps["swap_in_bytes"]) == (2, 4 * LEAF)
    assert (swaps["evictions"], swaps["evicted_bytes"]) == (1, 2 * LEAF)


def test_what_is_used_lately_stays_and_what_is_left_is_the_beginning():
    bench = Bench(5)
    old, new, asks = bench.add("old", 2), bench.add("new", 2), bench.add("asks", 2)
    bench.run(old)
    bench.run(new)
    bench.run(asks)
    # One group was free, so one had to go: the last of the model that was used least lately.
    assert [len(m.blocks) for m in (old, new, asks)] == [1, 2, 2]
    assert old.here == 1
    bench.run(old)
    assert old.counters.swap_in_bytes == 3 * LEAF


@pytest.mark.parametrize(
    ("eviction", "heavy_stays"),
    [(LightFirst(), True), (GreedyDual(), True), (LeastRecent(), False)],
)
def test_who_leaves_is_for_the_order_to_say(eviction, heavy_stays):
    bench = Bench(4, eviction)
    heavy = bench.add("heavy", 2, heavy=True, delay_ns=1000)
    light, asks = bench.add("light", 2, delay_ns=10), bench.add("c", 2)
    bench.run(heavy)
    bench.run(light)
    bench.run(asks)
    assert [len(m.blocks) for m in (heavy, light)] == ([2, 0] if heavy_stays else [0, 2])
    assert heavy.uses == light.uses == 1


def test_pinned_models_never_leave():
    bench = Bench(4)
    pinned, other, asks = bench.add("pinned", 2, pinned=True), bench.add("b", 2), bench.add("c", 2)
    bench.run(pinned)
    bench.run(other)
    bench.run(asks)
    assert [len(m.blocks) for m in (pinned, other)] == [2, 0]


def test_who_is_let_in_stays_until_it_has_run():
    bench = Bench(2)
    first, second = bench.add("first", 2), bench.add("second", 2)
    first.update(True, False, 0)
    bench.copy()
    second.update(True, False, 0)
    assert first.complete
    assert not second.blocks
    first.update(False, True, 0)
    assert not second.blocks
    first.update(True, False, 0)  # It has run; its next request asks anew, behind the other.
    assert len(second.blocks) == 2
    assert not first.admitted
    bench.copy()
    second.update(False, True, 0)
    second.update(False, False, 0)
    bench.copy()
    assert first.complete


def test_latency_sensitive_models_are_let_in_first():
    bench = Bench(2)
    runs, waits, urgent = bench.add("a", 2), bench.add("b", 2), bench.add("ls", 2, latency=True)
    runs.update(True, False, 0)
    bench.copy()
    runs.update(False, True, 0)
    waits.update(True, False, 0)
    urgent.update(True, False, 5)
    runs.update(False, False, 0)
    assert urgent.admitted
    assert not waits.admitted


def test_a_model_that_nobody_wants_any_more_makes_room():
    bench = Bench(2)
    first, second = bench.add("first", 2), bench.add("second", 2)
    first.update(True, False, 0)
    second.update(True, False, 0)
    first.update(False, False, 0)
    # The copies into the first one's blocks are under way: they are not free before that ends.
    assert not second.admitted
    bench.copy()
    assert second.admitted
    bench.run(second)


def test_a_block_is_not_reused_while_an_array_shows_it():
    bench = Bench(1)
    first, second = bench.add("first", 1), bench.add("second", 1)
    first.update(True, False, 0)
    bench.copy()
    with first.use(segment(0)) as arrays:
        held = arrays[0]
    first.update(False, True, 0)
    first.update(False, False, 0)
    second.update(True, False, 0)
    assert not second.admitted
    assert bench.residency.may_unblock_itself
    np.testing.assert_array_equal(np.asarray(held), bench.values["first"][0])
    del held, arrays
    bench.residency.retry()
    assert second.admitted
    bench.copy()
    bench.run(second)


def test_a_removed_model_gives_its_room_back_at_once():
    bench = Bench(2)
    first, second = bench.add("first", 2), bench.add("second", 2)
    first.update(True, False, 0)
    second.update(True, False, 0)
    first.discard()
    assert second.admitted or bench.residency.may_unblock_itself
    bench.copy()
    bench.residency.retry()
    bench.copy()
    assert second.complete


def test_copies_of_a_model_that_leaves_are_given_up():
    bench = Bench(8)
    gone, idle, stays = bench.add("gone", 3), bench.add("idle", 2), bench.add("stays", 2)
    for model in (gone, idle, stays):
        model.update(True, False, 0)
    bench.copy(1)
    gone.discard()
    # What has come is not given up; the last group goes first.
    assert bench.cancelled == [("gone", 2), ("gone", 1)]
    idle.update(False, False, 0)
    assert idle.evict() == 2 * LEAF
    assert bench.cancelled[2:] == [("idle", 1), ("idle", 0)]
    bench.copy(4, error="the copy was cancelled")
    assert bench.arena.stats()["used_bytes"] == 2 * LEAF
    bench.run(stays)
    bench.run(idle)
    assert len(bench.cancelled) == 4


def test_a_copy_that_fails_fails_the_launch_and_is_asked_for_again():
    bench = Bench(2)
    model = bench.add("a", 2)
    model.update(True, False, 0)
    bench.copy(1)
    bench.copy(1, error="the bus is down")
    assert model.ready(segment(1))
    model.update(False, True, 0)
    bench.check(model, segment(0))
    with pytest.raises(DeviceMemoryError, match="the bus is down"), model.use(segment(1)):
        pass
    model.update(False, False, 0)
    bench.run(model)


def test_a_model_above_the_arena_is_refused():
    bench = Bench(2)
    with pytest.raises(DeviceMemoryError, match="take 196608 bytes on the device, the arena has"):
        bench.add("a", 3)


def test_arrays_are_made_once_for_a_stay():
    bench = Bench(4)
    model = bench.add("a", 2)
    for _ in range(3):
        bench.run(model)
    assert (model.counters.hits, model.counters.swap_ins) == (2, 1)
    assert model.counters.arrays_created == 2


def test_arrays_of_one_that_left_serve_the_next_at_its_place():
    bench = Bench(2)
    first, second = bench.add("a", 2), bench.add("b", 2)
    for _ in range(2):
        bench.run(first)
        bench.run(second)
    assert (first.counters.swap_ins, second.counters.swap_ins) == (2, 2)
    assert (first.counters.arrays_created, first.counters.arrays_reused) == (2, 2)
    assert (second.counters.arrays_created, second.counters.arrays_reused) == (0, 4)
    assert bench.arena.stats()["parked_views"] == 0


def test_arrays_are_used_again_while_bytes_are_on_their_way():
    bench = Bench(2)
    model = bench.add("a", 2)
    bench.run(model)
    model.evict()
    model.update(True, False, 0)
    assert model.counters.arrays_reused == 2
    bench.copy()
    model.update(False, True, 0)
    bench.check(model, segment(0, 1))
    assert model.counters.arrays_created == 2


def test_a_group_lies_where_arrays_of_its_layout_wait():
    bench = Bench(3)
    small, large = bench.add("a", 2, leaf_bytes=LEAF // 2), bench.add("b", 2)
    bench.run(small)
    bench.run(large)
    small.evict()
    large.evict()
    # It would otherwise come to where the smaller one was.
    bench.run(large)
    bench.run(small)
    assert (large.counters.arrays_created, large.counters.arrays_reused) == (2, 2)
    assert (small.counters.arrays_created, small.counters.arrays_reused) == (2, 2)


def test_a_group_lies_elsewhere_if_none_of_those_places_is_free():
    bench = Bench(4)
    first, second = bench.add("a", 2), bench.add("b", 2)
    bench.run(first)
    bench.run(second)
    first.evict()
    large = bench.add("c", 1, leaf_bytes=2 * LEAF)
    bench.run(large)
    assert bench.parked_places(first) == (0, LEAF)
    second.evict()
    bench.run(first)
    assert bench.parked_places(first) == (0, LEAF)
    assert [block.offset for block in first.blocks] == [2 * LEAF, 3 * LEAF]


def test_arrays_that_somebody_holds_serve_nobody_else():
    bench = Bench(4)
    first = bench.add("a", 2)
    bench.run(first)
    with first.use(segment(0, 1)) as arrays:
        held = arrays[0]
    first.evict()
    second = bench.add("b", 2)
    bench.run(second)
    assert second.counters.arrays_reused == 1
    np.testing.assert_array_equal(held, bench.values["a"][0])


def test_arrays_that_numpy_has_seen_serve_nobody_else():
    bench = Bench(2)
    first, second = bench.add("a", 2), bench.add("b", 2)
    bench.run(first)
    with first.use(segment(0, 1)) as arrays:
        answer = first.detached(arrays[0])
    bench.run(second)
    assert second.counters.arrays_reused == 0
    np.testing.assert_array_equal(answer, bench.values["a"][0])


class Lost:
    """A block that a device has failed to move."""

    def __init__(self, block):
        self._block = block

    def pin(self):
        raise RuntimeError("a move lost the block's bytes")

    def __getattr__(self, name):
        return getattr(self._block, name)


def test_lost_bytes_are_brought_anew_by_the_next_request():
    bench = Bench(4)
    model = bench.add("a", 2)
    bench.run(model)
    model.blocks[1] = Lost(model.blocks[1])
    model.update(True, False, 0)
    model.update(False, True, 0)
    with pytest.raises(DeviceMemoryError, match="model 'a': a move lost"):
        bench.check(model, segment(0, 1))
    model.update(False, False, 0)
    assert model.held_bytes == 0
    bench.run(model)


def test_little_is_moved_rather_than_evicted():
    bench = Bench(4)
    first, second, third, fourth = (bench.add(name, 1) for name in "abcd")
    bench.run(first)
    # It came and was given up: a block without views, which can be moved.
    second.update(True, False, 0)
    bench.copy()
    second.update(False, False, 0)
    bench.run(third)
    bench.run(fourth)
    assert (first.evict(), third.evict()) == (LEAF, LEAF)
    bench.run(bench.add("wide", 1, leaf_bytes=2 * LEAF))
    assert (second.held_bytes, fourth.held_bytes) == (LEAF, LEAF)
    bench.run(second)
    assert second.counters.swap_ins == 1


def test_what_can_not_be_evicted_is_moved():
    bench = Bench(4)
    first, second, third, fourth = (bench.add(n, 1, pinned=n in "bd") for n in "abcd")
    for model in (first, second, third, fourth):
        bench.run(model)
    assert (first.evict(), third.evict()) == (LEAF, LEAF)
    bench.run(bench.add("wide", 1, leaf_bytes=2 * LEAF))
    for model in (second, fourth):
        bench.run(model)
        assert model.counters.swap_ins == 1


def test_a_launch_holds_its_blocks_after_their_arrays_are_gone():
    """On a GPU an array may end before the launch that reads it does."""
    bench = Bench(4)
    model = bench.add("a", 1)
    bench.run(model)
    (block,) = model.blocks
    with model.use(segment(0)) as arrays:
        model.discard()
        assert arrays == [None]
        assert block.state == "waiting"
    assert block.state == "free"


def test_a_device_that_fails_to_move_blocks_makes_no_room(caplog):
    bench = Bench(4)
    make_room = Mock(side_effect=RuntimeError("no such context"))
    bench.residency._arena = Mock(make_room=make_room, free_bytes=LEAF)
    assert not bench.residency._make_room(LEAF, LEAF)
    assert "no such context" in caplog.text


def test_copies_may_end_out_of_order():
    bench = Bench(8)
    model = bench.add("a", 3)
    first, second, third = (segment(i) for i in range(3))
    model.update(True, False, 0)
    bench.copy_last()
    assert not any(map(model.ready, (first, second, third)))
    bench.copy(1)
    assert list(map(model.ready, (first, second, third))) == [True, False, False]
    bench.copy()
    assert model.complete
    bench.check(model, segment(0, 1, 2))


def test_a_tenant_over_its_quota_makes_room_among_its_own_models():
    bench = Bench(6, t=4)
    other = bench.add("other", 2, tenant="u")
    first, second = bench.add("a", 3), bench.add("b", 2)
    for model in (other, first, second):
        bench.run(model)
    assert (other.held_bytes, first.held_bytes, second.held_bytes) == (2 * LEAF, 2 * LEAF, 2 * LEAF)
    bench.run(first)
    assert (other.held_bytes, first.held_bytes, second.held_bytes) == (2 * LEAF, 3 * LEAF, LEAF)


def test_who_waits_for_his_quota_holds_up_nobody_elses_models():
    bench = Bench(6, t=3)
    first, second = bench.add("a", 3, latency=True), bench.add("b", 2, latency=True)
    other = bench.add("other", 2, tenant="u")
    first.update(True, False, 0)
    second.update(True, False, 0)
    assert not second.admitted
    bench.run(other)
    bench.copy()
    first.update(False, True, 0)
    first.update(False, False, 0)
    assert second.admitted
    assert first.held_bytes == LEAF


def test_a_model_above_its_quota_is_refused():
    with pytest.raises(DeviceMemoryError, match=f"the quota of tenant 't' is {LEAF}"):
        Bench(4, t=1).add("a", 2)


class Machine(RuleBasedStateMachine):
    """Requests come and end at random for more models than fit; every array shows its own bytes."""

    @initialize(room=st.integers(3, 8))
    def start(self, room):
        self.bench = Bench(room)
        self.models = [
            self.bench.add(f"m{k}", 1 + k % 3, each=1 + k // 2, heavy=k % 2 == 0, latency=k == 0)
            for k in range(5)
        ]
        self.waiting = dict.fromkeys(range(5), 0)
        self.running = set()

    def tell(self, k):
        self.models[k].update(self.waiting[k] > 0, k in self.running, 0)

    @rule(k=st.integers(0, 4))
    def arrive(self, k):
        self.waiting[k] += 1
        self.tell(k)

    @rule(k=st.integers(0, 4))
    def give_up(self, k):
        if self.waiting[k]:
            self.waiting[k] -= 1
            self.tell(k)

    @rule(count=st.integers(1, 3))
    def copies_end(self, count):
        self.bench.copy(count)

    @precondition(lambda self: self.bench.copies)
    @rule()
    def the_last_copy_ends_first(self):
        self.bench.copy_last()

    @rule(k=st.integers(0, 4))
    def begin(self, k):
        if self.waiting[k] and k not in self.running and self.models[k].complete:
            self.waiting[k] -= 1
            self.running.add(k)
            self.tell(k)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def launch(self, data):
        k = data.draw(st.sampled_from(sorted(self.running)))
        self.bench.check(self.models[k], segment(*range(len(self.models[k].host.groups))))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data):
        k = data.draw(st.sampled_from(sorted(self.running)))
        self.running.discard(k)
        self.tell(k)

    @rule(k=st.integers(0, 4))
    def everybody_is_served_in_the_end(self, k):
        for j in sorted(self.running):
            self.running.discard(j)
            self.tell(j)
        self.waiting[k] += 1
        self.tell(k)
        for _ in range(50):
            self.bench.copy()
            self.bench.residency.retry()
            for j in range(5):
                if self.waiting[j] and self.models[j].complete:
                    self.bench.check(self.models[j], segment(0))
                    self.waiting[j], _ = 0, self.running.add(j)
                    self.tell(j)
                    self.running.discard(j)
                    self.tell(j)
        assert not any(self.waiting.values())

    @invariant()
    def a_running_model_is_on_the_device(self):
        if hasattr(self, "models"):
            self.bench.arena.check()
            assert all(self.models[k].complete for k in self.running)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
