"""Views of a block as DLPack tensors, and as JAX's arrays: no copy, and no use after the last."""

import gc
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax._src.lib import _jax

from missile_jax._native import Arena, Block, ViewLayout

NUMPY_DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
NUMPY_DTYPES += ["float16", "float32", "float64", "complex64", "complex128"]


class Tensor:
    """A capsule as numpy wants it."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def as_numpy(capsule: Any) -> np.ndarray:
    return np.from_dlpack(Tensor(capsule))


@pytest.fixture
def as_jax() -> Callable[[Any], jax.Array]:
    """What jax.dlpack.from_dlpack calls once it knows device and capsule."""
    device = jax.devices("cpu")[0]
    # capsule, device, stream, copy, DLPack's device type
    return lambda capsule: _jax.dlpack_managed_tensor_to_buffer(capsule, device, None, None, 1)


@pytest.fixture
def arena() -> Arena:
    return Arena(1 << 16)


@pytest.fixture
def block(arena: Arena) -> Block:
    block = arena.allocate(1 << 12)
    assert block is not None
    return block


def fill(block: Block) -> np.ndarray:
    """A block's bytes, none of which is another bool than 0 or 1. Shape [4096]."""
    content = np.arange(1 << 12, dtype=np.uint16).astype(np.uint8) & 1
    block.array(0, content.shape, "uint8")[:] = content
    return content


def until(holds: Callable[[], bool]) -> None:
    """XLA ends a buffer on a thread of its own and tells nobody: all that is left is to look."""
    for _ in range(6000):
        if holds():
            return
        time.sleep(0.01)
    pytest.fail("it did not come to hold in a minute")


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 5), (4, 0)])
def test_a_view_has_its_dtype_shape_and_bytes(block, dtype, shape):
    content = fill(block)
    (view,) = block.views(ViewLayout([(128, shape, dtype)]), as_numpy)
    assert (view.dtype, view.shape) == (np.dtype(dtype), shape)
    assert view.flags.c_contiguous
    if view.size:
        assert view.ctypes.data == block.address + 128
        assert view.tobytes() == content[128 : 128 + view.nbytes].tobytes()


def test_bfloat16_is_known_by_its_name(block, as_jax):
    block.array(0, (2,), ml_dtypes.bfloat16)[:] = [1.5, -2]
    (view,) = block.views(ViewLayout([(0, (2,), ml_dtypes.bfloat16)]), as_jax)
    assert view.dtype == jnp.bfloat16
    assert view.tolist() == [1.5, -2]


@pytest.mark.parametrize(
    "dtype",
    [
        *("S4", "U1", "O", "V8", "M8[s]", ">f4", "longdouble", "f4,f4"),
        *(ml_dtypes.float8_e5m2, ml_dtypes.int4),
    ],
)
def test_other_dtypes_are_refused(block, dtype):
    with pytest.raises(ValueError, match="can not be viewed"):
        ViewLayout([(0, (1,), dtype)])
    with pytest.raises(ValueError, match="can not be viewed"):
        block.array(0, (1,), dtype)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ((32, (1,), "int8"), "view 1 starts at 32"),
        ((4096, (1,), "int8"), "view 1 ends at 4097"),
        ((4032, (17,), "float32"), "view 1 ends at 4100"),
    ],
)
def test_views_that_do_not_fit_are_refused(arena, block, entry, message):
    layout = ViewLayout([(0, (2,), "int8"), entry])
    with pytest.raises(ValueError, match=message):
        block.views(layout, as_numpy)
    assert arena.stats()["views"] == 0


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ((-64, (1,), "int8"), "offset_bytes is -64"),
        ((0, (-1,), "int8"), "no negative axis: -1"),
        ((0, (1 << 40, 1 << 40), "int8"), "more bytes"),
    ],
)
def test_layouts_that_make_no_sense_are_refused(block, entry, message):
    with pytest.raises(ValueError, match=message):
        ViewLayout([entry])
    with pytest.raises(ValueError, match=message):
        block.array(*entry)


def test_an_array_ends_with_the_block(block):
    assert block.array(4095, (1,), "int8").shape == (1,)
    with pytest.raises(ValueError, match="a view of 2 bytes at 4095"):
        block.array(4095, (2,), "int8")


def test_each_view_counts_until_it_is_gone(arena, block):
    views = list(block.views(ViewLayout([(0, (4,), "int8")] * 3), as_numpy))
    assert arena.stats()["views"] == 3
    block.release()
    while views:
        assert (block.state, arena.stats()["views"]) == ("waiting", len(views))
        views.pop()
    assert block.state == "free"


def test_a_layout_serves_many_blocks_and_may_go_before_its_views(arena):
    layout = ViewLayout([(0, (2, 8), "float32"), (64, (8,), "int64")])
    assert len(layout) == 2
    blocks = [arena.allocate(128) for _ in range(5)]
    views = [block.views(layout, as_numpy) for block in blocks if block is not None]
    del layout
    gc.collect()
    assert {(first.shape, second.shape) for first, second in views} == {((2, 8), (8,))}
    assert len({view.ctypes.data for pair in views for view in pair}) == 10


def test_a_layout_may_be_empty(block):
    views = block.views(ViewLayout([]), as_numpy)
    assert list(views) == []
    with pytest.raises(IndexError):
        views[0]
    assert views.park()


def test_a_capsule_that_nobody_takes_ends_its_view(arena, block):
    layout = ViewLayout([(0, (4,), "int8")])
    (capsule,) = block.views(layout, lambda capsule: capsule)
    assert arena.stats()["views"] == 1
    del capsule
    assert arena.stats()["views"] == 0
    assert len(block.views(layout, id)) == 1
    assert arena.stats()["views"] == 0


def test_if_make_raises_no_view_is_left(arena, block):
    made = []

    def make(capsule):
        if len(made) == 2:
            raise KeyError("no more")
        made.append(0)
        return as_numpy(capsule)

    with pytest.raises(KeyError, match="no more"):
        block.views(ViewLayout([(64 * k, (4,), "int8") for k in range(5)]), make)
    assert len(made) == 2
    assert arena.stats()["views"] == 0
    arena.check()


@pytest.mark.smoke
def test_a_jax_array_shares_the_memory(arena, block, as_jax):
    block.array(64, (6,), "float32")[:] = np.arange(6)
    layout = ViewLayout([(64, (2, 3), "float32"), (128, (), "int32")])
    matrix, scalar = block.views(layout, as_jax)
    assert isinstance(matrix, jax.Array)
    assert matrix.unsafe_buffer_pointer() == block.address + 64
    assert scalar.unsafe_buffer_pointer() == block.address + 128
    assert matrix.devices() == {jax.devices("cpu")[0]}
    assert (jnp.sum(matrix), matrix.shape, scalar.shape) == (15, (2, 3), ())
    block.release()
    del scalar
    assert block.state == "waiting"
    matrix.delete()
    until(lambda: block.state == "free")
    assert arena.stats()["views"] == 0


def test_a_launch_in_flight_holds_its_views(arena, block, as_jax):
    block.array(0, (32, 32), "float32")[:] = np.eye(32)
    (view,) = block.views(ViewLayout([(0, (32, 32), "float32")]), as_jax)
    slow = jax.jit(lambda x: jax.lax.fori_loop(0, 100_000, lambda _, y: y @ x, x))
    slow = slow.lower(view).compile()

    result = slow(view)
    block.release()
    del view
    seen = (block.state, arena.stats()["views"], arena.allocate(arena.size_bytes))
    assert not result.is_ready()  # So what was seen was seen while it ran.
    assert seen == ("waiting", 1, None)
    np.testing.assert_array_equal(result, np.eye(32))
    until(lambda: block.state == "free")
    assert arena.stats()["views"] == 0


def test_a_view_of_an_output_buffer_that_is_donated_is_not_reused_early(arena, block, as_jax):
    """A donated view is copied or aliased by XLA; either way it ends once, after its use."""
    block.array(0, (256,), "float32")[:] = 1
    (view,) = block.views(ViewLayout([(0, (256,), "float32")]), as_jax)
    result = jax.jit(lambda x: x + 1, donate_argnums=0)(view)
    block.release()
    assert (np.asarray(result) == 2).all()
    del view, result
    until(lambda: block.state == "free")
    arena.check()


@pytest.fixture
def park(arena, block, as_jax) -> Callable[[], Any]:
    def park():
        """Two arrays of a block that is free again."""
        views = block.views(ViewLayout([(64, (8,), "float32"), (128, (), "int32")]), as_jax)
        assert views.park()
        offset = block.offset
        block.release()
        stats = arena.stats()
        assert (block.state, stats["views"], stats["parked_views"]) == ("free", 0, 2)
        assert views.offset == offset
        arena.check()
        return views

    return park


def test_parked_views_show_the_next_block_at_their_place(arena, park):
    parked = park()
    next_block = arena.allocate(1 << 12)
    next_block.array(64, (8,), "float32")[:] = 5
    assert parked.attach(next_block)
    assert (jnp.sum(parked[0]), arena.stats()["views"]) == (40, 2)
    next_block.release()
    assert next_block.state == "waiting"
    assert parked.park()
    assert next_block.state == "free"
    arena.check()


def test_parked_views_serve_no_other_place_and_no_smaller_block(arena, park):
    parked = park()
    below = arena.allocate(64)
    with pytest.raises(ValueError, match="view 0 ends at 96, behind the block's 64"):
        parked.attach(below)
    elsewhere = arena.allocate(1 << 12)
    assert elsewhere.offset != parked.offset
    assert not parked.attach(elsewhere)
    elsewhere.release()
    with pytest.raises(ValueError, match="only a live one can be viewed"):
        parked.attach(elsewhere)
    below.release()
    block = arena.allocate(1 << 12)
    assert parked.attach(block)
    assert not parked.attach(block)


def test_views_that_somebody_holds_are_not_parked(block, as_jax):
    views = block.views(ViewLayout([(0, (8,), "float32")]), as_jax)
    held = views[0]
    assert not views.park()
    block.release()
    assert block.state == "waiting"
    del held
    assert views.park()
    assert block.state == "free"


def test_views_of_which_one_has_ended_are_not_parked(arena, block, as_jax):
    views = block.views(ViewLayout([(0, (8,), "float32"), (64, (2,), "float32")]), as_jax)
    views[1].delete()
    until(lambda: arena.stats()["views"] == 1)
    assert not views.park()
    block.release()
    assert block.state == "waiting"
    del views
    until(lambda: block.state == "free")


def test_parked_views_end_with_their_set(arena, park):
    parked = park()
    del parked
    gc.collect()
    until(lambda: arena.stats()["parked_views"] == 0)
    arena.check()


def test_a_parked_view_that_ends_makes_its_set_useless(arena, park):
    parked = park()
    parked[0].delete()
    until(lambda: arena.stats()["parked_views"] == 1)
    assert not parked.attach(arena.allocate(1 << 12))
