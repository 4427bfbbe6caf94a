"""memory.store: groups in order of use, equal ones once."""

import jax
import jax.numpy as jnp
import numpy as np
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
