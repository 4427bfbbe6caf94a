"""memory.store: groups in order of use, equal ones once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from missile_jax.memory.store import Store


def leaves(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(n), jnp.float32) for n in sizes]


@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
)
def test_groups_hold_every_leaf_once_in_order_of_use(sizes, order):
    given_leaves = leaves(*sizes)
    indices = list(range(len(sizes)))
    order.shuffle(indices)
    host = Store(256, 64).put("m", given_leaves, indices)
    assert [i for group in host.members for i in group] == indices
    for k, group in enumerate(host.members):
        offset = 0
        for i in group:
            assert host.group_of[i] == k
            got = host.data[k][offset : offset + given_leaves[i].nbytes]
            assert got.tobytes() == np.asarray(given_leaves[i]).tobytes()
            offset = -(-(offset + given_leaves[i].nbytes) // 64) * 64
        assert offset == host.groups[k].size_bytes


def test_a_large_leaf_travels_alone():
    host = Store(1024, 64).put("m", leaves(8, 4000, 8, 8), [0, 1, 2, 3])
    assert host.members == ((0,), (1,), (2, 3))


def test_equal_groups_lie_once_and_go_with_their_last_model():
    store = Store(1 << 20, 64)
    first = store.put("a", leaves(100), [0])
    second = store.put("b", leaves(100), [0])
    assert second.groups[0] is first.groups[0]
    other = store.put("c", leaves(100, seed=1), [0])
    assert other.groups[0] is not first.groups[0]
    shared = first.groups[0]
    assert second.data[0] is first.data[0] is shared.data
    del first
    assert shared.data is second.data[0]
    del second
    assert shared.data is None


def test_the_same_bytes_of_another_shape_are_another_group():
    store = Store(1 << 20, 64)
    flat = store.put("a", [jnp.zeros(6)], [0])
    square = store.put("b", [jnp.zeros((2, 3))], [0])
    assert flat.groups[0] is not square.groups[0]


def held_bytes(*models):
    """Of all arrays that the models' groups are, or lie in."""
    arrays = {id(d if d.base is None else d.base): d for model in models for d in model.data}
    return sum(d.nbytes if d.base is None else d.base.nbytes for d in arrays.values())


def check(host, given_leaves):
    for group, members, data in zip(host.groups, host.members, host.data, strict=True):
        assert data.nbytes == group.size_bytes
        for offset, i in zip(group.offsets, members, strict=True):
            got = data[offset : offset + given_leaves[i].nbytes]
            assert got.tobytes() == np.asarray(given_leaves[i]).tobytes()


@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=8),
    chosen=st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=12), min_size=2, max_size=4),
)
def test_models_of_the_same_leaves_in_any_order_are_each_whole(sizes, chosen):
    pool = leaves(*sizes)
    store = Store(512, 64)
    models = []
    for k, picked in enumerate(chosen):
        own = [pool[i % len(pool)] for i in picked]
        models.append((store.put(f"m{k}", own, range(len(own))), own))
        assert [i for group in models[-1][0].members for i in group] == list(range(len(own)))
    for host, own in models:
        check(host, own)


@pytest.mark.parametrize("at", [0, 4, 9], ids=["first", "amid", "last"])
def test_fine_tunes_with_heads_of_their_own_share_the_rest(at):
    backbone = leaves(*[64] * 9)
    store = Store(1024, 64)
    models = []
    for seed, head in enumerate((16, 16, 160), start=1):
        own = [*backbone[:at], *leaves(head, seed=seed), *backbone[at:]]
        models.append(store.put(f"m{seed}", own, range(len(own))))
        check(models[-1], own)
    assert held_bytes(models[0]) == 9 * 256 + 64
    assert held_bytes(*models) == 9 * 256 + 64 + 64 + 640
    # Not a copy for each parameter.
    assert all(len(model.groups) <= len(models[0].groups) + 3 for model in models)


def test_what_is_shared_stays_with_whoever_is_left():
    backbone, store = leaves(*[64] * 4), Store(2048, 64)
    own = [[*backbone, *leaves(16, seed=seed)] for seed in (1, 2)]
    first, second = (store.put("m", x, range(5)) for x in own)
    assert second.groups[0].whole is first.groups[0]
    # The next one is like the second: its groups are that one's.
    third = store.put("m", own[1], range(5))
    assert third.groups == second.groups
    del first
    check(second, own[1])
    del second, third
    fourth = store.put("m", own[1], range(5))
    assert [group.whole for group in fourth.groups] == [None]


def test_short_runs_are_not_worth_a_copy_of_their_own():
    store = Store(4096, 64)
    for seed in (1, 2):
        own = [jnp.zeros(64), *leaves(600, seed=seed), jnp.zeros(64)]
        assert len(store.put("m", own, range(3)).groups) == 1


def test_leaves_without_plain_bytes_stay_on_the_device():
    keys = jax.random.key(0)
    host = Store(1 << 20, 64).put("m", [keys, *leaves(4)], [0, 1])
    assert list(host.kept) == [0]
    assert host.kept[0] is keys
    assert host.group_of == (-1, 0)


def test_leaves_that_no_plan_uses_are_not_kept():
    host = Store(1 << 20, 64).put("m", leaves(4, 4), [1])
    assert host.group_of == (-1, 0)
    assert not host.kept
