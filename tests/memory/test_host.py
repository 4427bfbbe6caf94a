"""memory.host and memory.disk: who is in host memory, who is on disk, on a real disk."""

import shutil
import threading
import weakref
from types import NoneType

import jax.numpy as jnp
import numpy as np
import pytest

from missile_jax.errors import CheckpointError, ConfigError, HostMemoryError
from missile_jax.memory.disk import Disk
from missile_jax.memory.host import Host
from missile_jax.memory.store import Store

LEAF = 1 << 12  # bytes; a group each


class Bench:
    """A host with room for `room` groups, and a disk in `path`."""

    def __init__(self, path, room):
        self.disk = Disk(path)
        self.host = Host(room * LEAF, self.disk, threading.RLock())
        self.store = Store(LEAF, 64)
        self.values = {}
        self.ends = []
        self.host.moved = lambda model, error: self.ends.append((model, error))

    def put(self, name, *seeds, idle=()):
        """A model with a group for each seed."""
        leaves = [
            jnp.asarray(np.random.default_rng(seed).standard_normal(LEAF // 4), jnp.float32)
            for seed in seeds
        ]
        model = self.store.put(name, leaves, range(len(leaves)))
        self.values[model] = [np.asarray(x).tobytes() for x in leaves]
        error = self.host.keep(model, idle).result(30)
        if error is not None:
            self.host.release(model)
            raise error
        return model

    def bring(self, model, *idle):
        assert self.host.bring(model, idle)
        self.settle()

    def settle(self):
        self.disk.run(int).result(30)

    def check(self, model):
        assert model.here
        assert [data.tobytes() for data in model.data] == self.values[model]

    def folders(self):
        return sorted(path.name.partition(".")[0] for path in self.disk.folder.iterdir())


@pytest.fixture
def bench(tmp_path):
    made = []

    def bench(room):
        made.append(Bench(tmp_path / "disk", room))
        return made[-1]

    yield bench
    for one in made:
        one.host.close()


def test_who_is_idle_longest_makes_room_and_comes_back_unchanged(bench):
    bench = bench(4)
    a, b = bench.put("a", 1, 2), bench.put("b", 3, 4)
    c = bench.put("c", 5, 6, idle=[a, b])
    assert (a.here, b.here, c.here) == (False, True, True)
    assert a.data is None
    assert bench.host.size_bytes == 4 * LEAF
    bench.bring(a, b, c)
    assert bench.ends[-1] == (a, None)
    assert (a.here, b.here, c.here) == (True, False, True)
    bench.check(a)
    assert bench.host.size_bytes == 4 * LEAF


def test_a_model_is_written_once(bench):
    bench = bench(1)
    a = bench.put("a", 1)
    b = bench.put("b", 2, idle=[a])
    for _ in range(3):
        bench.bring(a, b)
        bench.bring(b, a)
    bench.check(b)
    assert bench.disk.stats["writes"] == 2
    assert bench.disk.stats["reads"] == 6


def test_without_room_a_new_model_goes_to_disk_itself_and_waits_there(bench):
    bench = bench(2)
    busy = bench.put("busy", 1, 2)
    new = bench.put("new", 3)
    assert (busy.here, new.here) == (True, False)
    assert not bench.host.bring(new, [])
    bench.host.release(busy)
    bench.bring(new)
    bench.check(new)


QUARTER = LEAF // 4


def put_tuned(bench, name, seed, shared=3):
    """A model of one group's size: quarters the same for all, as many as `shared`, and its own."""
    backbone, own = np.random.default_rng(0), np.random.default_rng(seed)
    leaves = [
        jnp.asarray(rng.standard_normal(QUARTER // 4), jnp.float32)
        for rng in [backbone] * shared + [own] * (4 - shared)
    ]
    model = bench.store.put(name, leaves, range(4))
    bench.values[model] = b"".join(np.asarray(x).tobytes() for x in leaves)
    assert bench.host.keep(model, []).result(30) is None
    return model


def check_tuned(bench, *models):
    for model in models:
        assert model.here
        assert b"".join(data.tobytes() for data in model.data) == bench.values[model]


def quarters(bench):
    return bench.host.size_bytes / QUARTER


def test_a_part_of_anothers_group_is_counted_once_and_keeps_all_of_it(bench):
    bench = bench(2)
    a = put_tuned(bench, "a", 1)
    b, c = put_tuned(bench, "b", 2), put_tuned(bench, "c", 3)
    assert quarters(bench) == 4 + 1 + 1
    check_tuned(bench, a, b, c)
    bench.host.release(a)
    assert quarters(bench) == 4 + 1 + 1
    bench.host.release(b)
    assert quarters(bench) == 4 + 1
    check_tuned(bench, c)
    bench.host.release(c)
    assert quarters(bench) == 0


def test_a_part_without_the_rest_is_counted_by_itself(bench):
    bench = bench(2)
    a, b, c = (put_tuned(bench, name, k) for k, name in enumerate("abc", start=1))
    full = bench.put("full", 4, idle=[a, c, b])
    assert [model.here for model in (a, b, c, full)] == [False, False, False, True]
    assert quarters(bench) == 4
    bench.bring(b)
    assert quarters(bench) == 4 + 3 + 1
    bench.bring(c, full)
    assert quarters(bench) == 3 + 1 + 1
    check_tuned(bench, b, c)
    # What they share is read once more with the whole, and is theirs and its own.
    bench.bring(a, b)
    assert quarters(bench) == 3 + 1 + 4
    check_tuned(bench, a, c)


def test_who_comes_again_shares_with_those_that_are_there(bench):
    bench = bench(2)
    a, b = put_tuned(bench, "a", 1), put_tuned(bench, "b", 2)
    full = bench.put("full", 4, idle=[b])
    assert quarters(bench) == 4 + 4
    bench.bring(b, full)
    assert quarters(bench) == 4 + 1
    assert bench.disk.stats["read_bytes"] == QUARTER
    check_tuned(bench, a, b)


def test_who_shares_with_one_that_makes_room_for_it_gets_that_room(bench):
    bench = bench(1)
    a, b = put_tuned(bench, "a", 1), put_tuned(bench, "b", 2)
    assert (a.here, b.here) == (True, False)
    for _ in range(2):
        bench.bring(b, a)
        assert quarters(bench) == 4
        check_tuned(bench, b)
        bench.bring(a, b)
        assert quarters(bench) == 4
        check_tuned(bench, a)


def test_who_comes_does_not_share_what_only_a_writer_holds_of_one_that_has_left(bench):
    bench = bench(1)
    a, b = put_tuned(bench, "a", 1), put_tuned(bench, "b", 2)
    written = a.data
    bench.bring(b, a)
    assert quarters(bench) == 4
    assert b.data is not None
    assert not any(np.shares_memory(mine, left) for mine in b.data for left in written)
    check_tuned(bench, b)
    # Its own bytes are used again.
    reads = bench.disk.stats["reads"]
    bench.bring(a, b)
    assert quarters(bench) == 4
    assert bench.disk.stats["reads"] == reads
    check_tuned(bench, a)


def test_who_finds_less_to_share_than_it_was_let_in_for_is_left_on_disk(bench):
    bench = bench(7 / 4)
    a, b, c = (
        put_tuned(bench, name, seed, shared)
        for name, seed, shared in [("a", 1, 3), ("b", 2, 3), ("c", 3, 2)]
    )
    assert quarters(bench) == 4 + 1 + 2
    gone = threading.Event()
    weakref.finalize(a.data[0], gone.set)
    bench.host.release(bench.put("full", 4, idle=[a, b, c]))
    # Two are to lie in the first one's group, which can not be read.
    (folder,) = bench.disk.folder.glob("a.*")
    shutil.rmtree(folder)
    assert gone.wait(30)
    free = threading.Event()
    held = bench.disk.run(free.wait, 30)
    for model in (a, b, c):
        assert bench.host.bring(model, [])
    assert quarters(bench) == 4 + 1 + 2
    free.set()
    assert held.result(30)
    bench.settle()
    assert [model for model, _ in bench.ends[-3:]] == [a, b, c]
    assert [type(error) for _, error in bench.ends[-3:]] == [CheckpointError, NoneType, NoneType]
    assert (b.here, b.data, c.here) == (False, None, True)
    assert quarters(bench) == 4
    check_tuned(bench, c)
    bench.bring(b, c)
    check_tuned(bench, b)
    assert quarters(bench) == 4


def test_equal_groups_are_counted_once_and_read_only_if_nobody_has_them(bench):
    bench = bench(3)
    a, b = bench.put("a", 1, 2), bench.put("b", 1, 3)
    assert bench.host.size_bytes == 3 * LEAF
    c = bench.put("c", 4, idle=[a])
    assert bench.host.size_bytes == 3 * LEAF
    assert a.data is None
    bench.bring(a, c)
    assert a.data[0] is b.data[0]
    assert bench.disk.stats["read_bytes"] == LEAF
    bench.check(a)
    bench.check(b)


def test_groups_that_two_leavers_share_are_written_before_they_go(bench):
    bench = bench(2)
    a, b = bench.put("a", 1), bench.put("b", 1)
    c = bench.put("c", 2, 3, idle=[a, b])
    assert (a.here, b.here) == (False, False)
    bench.bring(a, c)
    bench.bring(b)
    bench.check(a)
    bench.check(b)
    assert bench.host.size_bytes == LEAF


def test_a_model_above_host_memory_is_refused(bench):
    bench = bench(2)
    a = bench.put("a", 1)
    with pytest.raises(HostMemoryError, match=r"model 'big'.*12288 bytes.*allows 8192"):
        bench.put("big", 2, 3, 4, idle=[a])
    bench.check(a)
    assert bench.host.size_bytes == LEAF


def test_a_released_model_leaves_no_file(bench):
    bench = bench(1)
    a = bench.put("a", 1)
    b = bench.put("b", 2, idle=[a])
    assert bench.folders() == ["a"]
    bench.host.release(a)
    bench.host.release(b)
    bench.settle()
    assert bench.folders() == []
    assert bench.host.size_bytes == 0


def test_a_model_released_on_its_way_is_not_counted(bench):
    bench = bench(2)
    a = bench.put("a", 1, 2)
    bench.put("b", 3, idle=[a])
    free = threading.Event()
    held = bench.disk.run(free.wait, 30)
    c = bench.put("c", 4)
    assert not bench.host.bring(a, [])
    assert bench.host.bring(a, [c, *(m for m in bench.values if m.name == "b")])
    assert a.moving
    bench.host.release(a)
    free.set()
    assert held.result(30)
    bench.settle()
    assert (a.here, a.data) == (False, None)
    assert bench.host.size_bytes == 0


def test_a_disk_that_cannot_be_written_to_leaves_all_where_it_was(bench):
    bench = bench(1)
    a = bench.put("a", 1)
    folder = bench.disk.folder
    folder.rmdir()
    folder.write_text("no folder")
    message = r"host memory is full, and model 'a' cannot be written to .*runtime"
    with pytest.raises(HostMemoryError, match=message):
        bench.put("b", 2, idle=[a])
    bench.check(a)
    folder.unlink()
    folder.mkdir()
    b = bench.put("c", 3, idle=[a])
    bench.check(b)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_on_disk_is_found_and_hurts_its_own_model_only(bench, damage):
    bench = bench(1)
    a = bench.put("a", 1)
    b = bench.put("b", 2, idle=[a])
    (folder,) = bench.disk.folder.glob("a.*")
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
    elif damage == "truncate":
        largest.write_bytes(content[: len(content) // 2])
    else:
        largest.unlink()
    bench.bring(a, b)
    model, error = bench.ends[-1]
    assert model is a
    assert isinstance(error, CheckpointError)
    assert "model 'a'" in str(error)
    assert not a.here
    assert bench.host.size_bytes == 0
    bench.bring(b)
    bench.check(b)


def test_a_disk_ends_without_leaving_anything(tmp_path):
    first = Bench(tmp_path, 1)
    a = first.put("a", 1)
    first.put("b", 2, idle=[a])
    second = Bench(tmp_path, 1)
    assert first.folders() == ["a"], "a living process's files were taken away"
    first.host.close()
    second.host.close()
    assert [p.name for p in (tmp_path / ".missile-spill").iterdir()] == [".lock"]


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"disk=.*cannot be used"):
        Disk(tmp_path / "file")
