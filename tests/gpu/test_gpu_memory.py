"""An arena in a GPU's own memory: copied into by the link, read by XLA, used again in time."""

import gc
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missile_jax import Runtime
from missile_jax._native import Arena, Block, Copy, CudaDevice, Link, ViewLayout
from missile_jax.memory import views

pytestmark = pytest.mark.gpu

SIDE = 512
MATRIX_BYTES = 4 * SIDE * SIDE
LAYOUT = ViewLayout([(0, (SIDE, SIDE), "float32"), (MATRIX_BYTES, (SIDE,), "float32")])
BLOCK_BYTES = MATRIX_BYTES + 4 * SIDE


class Card:
    """An arena for four models, and a link each way."""

    def __init__(self, gpu: jax.Device) -> None:
        self.gpu = gpu
        self.device = CudaDevice(gpu.local_hardware_id)
        self.arena = Arena.on_cuda(self.device, 4 * BLOCK_BYTES)
        self.up = Link(cuda=self.device, threads=2, chunk_bytes=256 << 10)
        self.down = Link(cuda=self.device, to_host=True)
        self.flow, self.back = self.up.flow("to"), self.down.flow("back")

    def swap_in(self, host: np.ndarray) -> Block:
        block = self.arena.allocate(BLOCK_BYTES)
        assert block is not None
        finish(self.flow.copy((block.address, block), 0, host, 0, host.nbytes))
        return block

    def show(self, block: Block) -> list[jax.Array]:
        return block.views(LAYOUT, views.array_maker(self.gpu))


@pytest.fixture
def card(gpu) -> Iterator[Card]:
    one = Card(gpu)
    yield one
    one.up.close()
    one.down.close()


def finish(copy: Copy) -> None:
    assert copy.wait(60)
    assert copy.error is None


def parameters(seed: int) -> np.ndarray:
    """A weight [SIDE, SIDE] and a bias [SIDE], as they lie in a block."""
    numbers = np.random.default_rng(seed).standard_normal(BLOCK_BYTES // 4, np.float32)
    return numbers / np.float32(SIDE)


def dense(weight: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.dot(x, weight, precision="highest") + bias


def check_dense(card: Card, block: Block, host: np.ndarray) -> None:
    weight, bias = host[: SIDE * SIDE].reshape(SIDE, SIDE), host[SIDE * SIDE :]
    x = np.random.default_rng(9).standard_normal((4, SIDE), np.float32)
    got = jax.jit(dense)(*card.show(block), jax.device_put(x, card.gpu))
    np.testing.assert_allclose(got, x @ weight + bias, rtol=0, atol=1e-4)


def until_free(block: Block) -> None:
    """XLA ends a buffer on a thread of its own and tells nobody: all that is left is to look."""
    for _ in range(6000):
        if block.state == "free":
            return
        time.sleep(0.01)
    pytest.fail("a block did not become free in a minute")


@pytest.mark.parametrize("pin", [True, False])
def test_a_jitted_function_reads_what_the_link_brought(card, pin):
    host = parameters(1)
    source = np.frombuffer(card.device.pinned(BLOCK_BYTES), np.float32) if pin else host
    source[:] = host
    block = card.swap_in(source)
    weight, bias = card.show(block)
    assert weight.devices() == {card.gpu}
    assert weight.unsafe_buffer_pointer() == block.address
    assert bias.unsafe_buffer_pointer() == block.address + MATRIX_BYTES
    np.testing.assert_array_equal(bias, host[SIDE * SIDE :])
    check_dense(card, block, host)
    block.release()
    assert block.state == "waiting"
    del weight, bias
    gc.collect()
    until_free(block)


def test_the_quick_way_is_known_to_this_version_of_jax(gpu):
    assert views.array_maker(gpu).func is views._private


def test_bytes_come_back(card):
    host = parameters(2)
    block = card.swap_in(host)
    for back in (np.zeros_like(host), np.frombuffer(card.device.pinned(BLOCK_BYTES), np.float32)):
        finish(card.back.copy(back, 0, (block.address, block), 0, BLOCK_BYTES))
        np.testing.assert_array_equal(back, host)


def test_blocks_move_down(card):
    hole = card.arena.allocate(256)
    hosts = [parameters(seed) for seed in (3, 4)]
    blocks = [card.swap_in(host) for host in hosts]
    hole.release()
    assert card.arena.compact() == 2 * BLOCK_BYTES
    for block, host in zip(blocks, hosts, strict=True):
        check_dense(card, block, host)
    card.arena.check()


def test_a_pinned_block_is_kept_for_a_launch_that_is_late(card):
    ones = np.ones(BLOCK_BYTES // 4, np.float32)
    slow = jax.jit(lambda w, b: jax.lax.fori_loop(0, 20_000, lambda _, y: y + b @ w, b))
    first = card.swap_in(ones / np.float32(SIDE))
    jax.block_until_ready(slow(*card.show(first)))
    first.pin()
    result = slow(*card.show(first))
    first.release()
    gc.collect()
    others = [card.arena.allocate(BLOCK_BYTES) for _ in range(4)]
    assert others[-1] is None
    for block in others[:-1]:
        finish(card.flow.copy((block.address, block), 0, 7 * ones, 0, BLOCK_BYTES))
    jax.block_until_ready(result)
    first.unpin()
    until_free(first)
    np.testing.assert_allclose(result, 20_001 / SIDE, rtol=1e-3)


def scaled(weight: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x * weight, x[:, :4]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_large_inputs_and_results_go_over_the_link_each_way(gpu, tmp_path, dtype):
    xs = [np.arange(k, k + (1 << 20)).reshape(1, -1).astype(dtype) for k in range(24)]
    size_bytes = xs[0].nbytes
    with Runtime(device=gpu, cache_dir=tmp_path, device_memory="512MiB") as runtime:
        fields = {"params": np.array(3, dtype), "example": xs[0], "buckets": [1, 4]}
        runtime.load("front", model=scaled, priority="latency", tenant="a", **fields)
        runtime.load("back", model=scaled, tenant="b", **fields)
        behind = [runtime.submit("back", x) for x in xs]
        front = [runtime.infer("front", x) for x in xs]
        answers = [*front, *(future.result(timeout=60) for future in behind)]
        memory = runtime.stats()["memory"]
    # After the end: what was handed out is the caller's for as long as he likes.
    for (large, small), x in zip(answers, xs * 2, strict=True):
        np.testing.assert_array_equal(large, x * np.array(3, dtype))
        np.testing.assert_array_equal(small, x[:, :4])
        assert not large.flags.writeable
    flow = memory["link"]["a/latency"]
    assert flow["to_host"]["bytes"] == 24 * size_bytes
    assert 24 * size_bytes <= flow["bytes"] < 25 * size_bytes
    assert memory["link"]["b/best_effort"]["to_host"]["bytes"] >= 24 * size_bytes
    assert memory["transfers"]["inputs_by_xla"] == 0
    assert memory["transfers"]["inputs"] >= 24


def test_xla_brings_an_input_that_there_is_no_room_for(gpu, tmp_path):
    x = np.arange(1 << 22, dtype=np.float32).reshape(1, -1)
    # Of 128 MiB, 8 are for inputs; this one has 16.
    with Runtime(device=gpu, cache_dir=tmp_path, device_memory="128MiB") as runtime:
        runtime.load("m", model=scaled, params=np.float32(2), example=x)
        large, _ = runtime.infer("m", x)
        memory = runtime.stats()["memory"]
    np.testing.assert_array_equal(large, 2 * x)
    assert memory["transfers"]["inputs_by_xla"] == 1
    assert memory["link"]["default/best_effort"]["bytes"] < x.nbytes
    assert memory["link"]["default/best_effort"]["to_host"]["bytes"] == x.nbytes
