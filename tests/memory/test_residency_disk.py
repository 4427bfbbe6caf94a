"""memory.residency with a host that is smaller than its models: files are real, copies instant."""

import tempfile
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from missile_jax._native import Arena
from missile_jax.memory.disk import Disk
from missile_jax.memory.eviction import LightFirst, Return
from missile_jax.memory.host import Host
from missile_jax.memory.residency import Residency
from missile_jax.memory.store import Store
from missile_jax.memory.views import array_maker
from missile_jax.program.plan import Plan, Segment

LEAF = 1 << 12  # bytes; a group each


def segment(*params):
    return Segment(None, params, (), (), (), 1000)


def plan(num_leaves):
    return Plan(
        segment(*range(num_leaves)), (segment(*range(num_leaves)),), 0, (), None, True, 0, ""
    )


class Bench:
    """Room for `device` groups in an arena and `host` groups behind it; the rest is on disk."""

    def __init__(self, path, device, host):
        self.lock = threading.RLock()
        self.disk = Disk(path)
        self.host = Host(host * LEAF, self.disk, self.lock)
        self.store = Store(LEAF, 64)
        self.values, self.copies, self.now_ns = {}, [], 0
        self.residency = Residency(
            Arena(device * LEAF, alignment=64),
            self.fetch,
            self.host,
            dict.fromkeys((True, False), array_maker(jax.devices("cpu")[0])),
            self.tick,
            self.lock,
            lambda: None,
            {},
            LightFirst(),
        )

    def tick(self):
        self.now_ns += 1
        return self.now_ns

    def fetch(self, model, first, blocks, done):
        for k, block in enumerate(blocks, first):
            data = model.host.data[k]
            block.array(0, data.shape, np.dtype(np.uint8))[:] = data
        self.copies.append(done)
        return lambda: None  # Its bytes are there already.

    def add(self, name, *seeds, latency=False, leaf_bytes=LEAF):
        """A model with a leaf for each seed; models share those of equal seeds."""
        leaves = [
            jnp.asarray(np.random.default_rng(seed).standard_normal(leaf_bytes // 4), jnp.float32)
            for seed in seeds
        ]
        host = self.store.put(name, leaves, range(len(leaves)))
        with self.lock:
            model = self.residency.add(
                name, host, [plan(len(seeds))], latency=latency, tenant="t", cost=Return(False, 0)
            )
            room = self.host.keep(host, self.residency.spillable(model))
        assert room.result(30) is None
        self.values[name] = [np.asarray(x) for x in leaves]
        return model

    def settle(self):
        """Lets the disk and the copies do all that they have been asked for."""
        for _ in range(100):
            self.disk.run(int).result(30)
            copies, self.copies = self.copies, []
            for done in copies:
                done(None)
            with self.lock:
                self.residency.retry()
                moving = any(m.host.moving for m in self.residency._models.values())
            if not (copies or self.copies or moving):
                return
        raise AssertionError("it never comes to rest")

    def tell(self, model, waiting, running):
        with self.lock:
            model.update(waiting, running, 0)

    def check(self, model):
        whole = segment(*range(len(model.host.group_of)))
        with model.use(whole) as arrays:
            for array, value in zip(arrays, self.values[model.name], strict=True):
                np.testing.assert_array_equal(np.asarray(array), value)

    def close(self):
        with self.lock:
            self.residency.close()
        self.host.close()


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path, 2, 2)
    yield bench
    bench.close()


def test_who_runs_keeps_its_place_in_host_memory(bench):
    runs, other = bench.add("runs", 1), bench.add("other", 2)
    away = bench.add("away", 3, 4)
    bench.tell(runs, True, False)
    bench.settle()
    bench.tell(runs, False, True)
    bench.tell(away, True, False)
    bench.settle()
    # It needs two groups of room; the one that runs holds one of them.
    assert runs.host.here
    assert not away.admitted
    bench.tell(runs, False, False)
    bench.settle()
    assert away.complete
    bench.check(away)
    assert (runs.host.here, other.host.here) == (False, False)


def test_who_came_from_disk_is_not_sent_back_before_it_has_run(bench):
    a, b, c = bench.add("a", 1, 2), bench.add("b", 3, 4), bench.add("c", 5, 6)
    for model in (a, b, c):
        bench.tell(model, True, False)
    served = []
    for _ in range(3):
        bench.settle()
        (ready,) = (m for m in (a, b, c) if m.complete and m.name not in served)
        served.append(ready.name)
        bench.tell(ready, False, True)
        bench.check(ready)
        bench.tell(ready, False, False)
    assert sorted(served) == ["a", "b", "c"]
    assert bench.disk.stats["reads"] <= 3


def memory_of(array):
    return array.base if isinstance(array.base, np.ndarray) else array


class Machine(RuleBasedStateMachine):
    """Requests for models of which few fit anywhere; each is served in the end, with its bytes."""

    @initialize(device=st.integers(3, 5), host=st.integers(3, 6))
    def start(self, device, host):
        self.folder = tempfile.TemporaryDirectory()
        self.bench = Bench(Path(self.folder.name), device, host)
        seeds = [(0,), (0, 1), (2, 3, 4), (0, 5, 6), (7, 8)]
        self.models = [
            self.bench.add(f"m{k}", *seed, latency=k == 1) for k, seed in enumerate(seeds)
        ]
        # Each one group long, of which they share three quarters.
        self.models += [
            self.bench.add(f"m{k}", 10, 11, 12, 8 + k, leaf_bytes=LEAF // 4) for k in (5, 6, 7)
        ]
        self.limit = host * LEAF
        self.waiting, self.running = set(), set()

    def tell(self, k):
        self.bench.tell(self.models[k], k in self.waiting, k in self.running)

    @rule(k=st.integers(0, 7))
    def arrive(self, k):
        self.waiting.add(k)
        self.tell(k)

    @rule(k=st.integers(0, 7))
    def give_up(self, k):
        self.waiting.discard(k)
        self.tell(k)

    @rule()
    def settle(self):
        self.bench.settle()

    @rule(k=st.integers(0, 7))
    def begin(self, k):
        if k in self.waiting and k not in self.running and self.models[k].complete:
            self.waiting.discard(k)
            self.running.add(k)
            self.tell(k)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data):
        k = data.draw(st.sampled_from(sorted(self.running)))
        self.bench.check(self.models[k])
        self.running.discard(k)
        self.tell(k)

    @rule()
    def everybody_is_served_in_the_end(self):
        for k in sorted(self.running):
            self.running.discard(k)
            self.tell(k)
        for _ in range(20):
            self.bench.settle()
            for k in [k for k in sorted(self.waiting) if self.models[k].complete]:
                self.begin(k)
                self.bench.check(self.models[k])
                self.running.discard(k)
                self.tell(k)
        assert not self.waiting

    @invariant()
    def the_limit_is_kept(self):
        if hasattr(self, "bench"):
            data = [d for m in self.models if m.host.data is not None for d in m.host.data]
            # A part keeps all of the array that it is a part of.
            arrays = {id(array): array for array in map(memory_of, data)}
            assert self.bench.host.size_bytes <= self.limit
            assert sum(array.nbytes for array in arrays.values()) <= self.limit

    def teardown(self):
        if hasattr(self, "bench"):
            self.bench.close()
            self.folder.cleanup()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
