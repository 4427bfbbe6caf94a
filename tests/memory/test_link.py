"""The link: bytes arrive, and every copy ends once, whatever happens to it."""

from __future__ import annotations

import gc
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from links import KIB, PATIENCE_S, MakeLink, endless, finish

from missile_jax import _native


@pytest.mark.smoke
@given(data=st.data(), threads=st.integers(1, 3), non_temporal=st.booleans())
def test_bytes_arrive_where_they_belong_and_nowhere_else(data, threads, non_temporal):
    size = data.draw(st.integers(0, 9000))
    to, origin = data.draw(st.integers(0, 130)), data.draw(st.integers(0, 130))
    chunk = data.draw(st.sampled_from([1, 63, 1024, 1500, 1 << 20]))
    rng = np.random.default_rng(size)
    source = rng.integers(0, 256, origin + size + 7, np.uint8)
    destination = rng.integers(0, 256, to + size + 9, np.uint8)
    expected = destination.copy()
    expected[to : to + size] = source[origin : origin + size]
    link = _native.Link(chunk_bytes=chunk, threads=threads, non_temporal=non_temporal)
    finish(link.flow("a").copy(destination, to, source, origin, size))
    link.close()
    np.testing.assert_array_equal(destination, expected)


@given(
    sizes=st.lists(st.integers(0, 700), max_size=12),
    chunk=st.sampled_from([1, 100, 4096]),
    seed=st.integers(0, 99),
)
def test_pieces_of_one_copy_are_packed_into_chunks(sizes: list[int], chunk: int, seed: int):
    rng = np.random.default_rng(seed)
    source = rng.integers(0, 256, 1000, np.uint8)
    destination = np.zeros(sum(sizes) + 1, np.uint8)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    ranges = [(int(a), int(rng.integers(0, 300)), n) for a, n in zip(starts, sizes, strict=False)]
    link = _native.Link(chunk_bytes=chunk, history=10_000)
    flow = link.flow("a")
    copy = flow.copy_many(destination, source, ranges)
    finish(copy)
    for at, origin, size in ranges:
        np.testing.assert_array_equal(destination[at : at + size], source[origin : origin + size])
    assert destination[-1] == 0
    assert copy.size_bytes == sum(sizes)
    assert link.stats()["a"]["chunks"] == -(-sum(sizes) // chunk)
    link.close()


def test_memory_comes_in_many_forms(make_link: MakeLink):
    flow = make_link().flow("a")
    block = np.zeros(64, np.float32)
    finish(flow.copy((block.ctypes.data, block), 0, jnp.arange(64, dtype=jnp.float32), 0, 256))
    np.testing.assert_array_equal(block, np.arange(64))
    words = bytearray(8)
    finish(flow.copy(words, 2, memoryview(b"abcdef"), 1, 4))
    assert words == b"\0\0bcde\0\0"
    halves = np.zeros(4, jnp.bfloat16)
    finish(flow.copy(halves, 0, np.ones(4, jnp.bfloat16), 0, 8))
    assert (halves == 1).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((bytearray(8), 4, bytes(8), 0, 5), ValueError, "destination of 8 bytes"),
        ((bytearray(8), 0, bytes(8), 4, 5), ValueError, "source of 8 bytes"),
        ((bytearray(8), -1, bytes(8), 0, 1), ValueError, "offset -1"),
        ((bytearray(8), 0, bytes(8), 0, -1), ValueError, "-1 bytes"),
        ((bytearray(8), 1 << 62, bytes(8), 0, 1 << 62), ValueError, "not inside"),
        ((bytes(8), 0, bytes(8), 0, 1), BufferError, "not writable"),
        ((np.zeros((4, 4))[:, ::2], 0, bytes(8), 0, 1), ValueError, "contiguous"),
        ((7, 0, bytes(8), 0, 1), TypeError, "bytes-like"),
        (((0, None), 0, bytes(8), 0, 1), ValueError, "must not be 0"),
        (((1, 2, 3), 0, bytes(8), 0, 1), ValueError, "owner"),
        ((bytearray(8), 0, bytes(8), 0, 1, "call me"), TypeError, "callable"),
    ],
)
def test_what_can_not_be_copied_is_refused(make_link: MakeLink, arguments, error, message):
    with pytest.raises(error, match=message):
        make_link().flow("a").copy(*arguments)


def test_ranges_that_overlap_are_refused(make_link: MakeLink):
    block = np.arange(100, dtype=np.uint8)
    flow = make_link().flow("a")
    with pytest.raises(ValueError, match="overlap"):
        flow.copy(block, 10, block, 0, 11)
    finish(flow.copy(block, 50, block, 0, 50))
    np.testing.assert_array_equal(block[50:], block[:50])


def test_a_copy_that_waits_can_be_cancelled(make_link: MakeLink):
    link = make_link(chunk_bytes=64 * KIB)
    flow = link.flow("a")
    running, waiting = endless(flow), endless(flow)
    assert not waiting.wait(0)
    assert waiting.cancel()
    assert waiting.done
    assert waiting.error == "the copy was cancelled"
    assert waiting.started_ns == 0
    assert running.cancel()
    assert running.cancel()
    assert running.wait(PATIENCE_S)
    assert link.stats()["a"]["cancelled"] == 2
    after = flow.copy(bytearray(8), 0, bytes(8), 0, 8)
    finish(after)
    assert not after.cancel()
    assert link.stats()["a"]["copies"] == 1


def test_a_closed_flow_fails_its_copies_alone(make_link: MakeLink):
    link = make_link(chunk_bytes=64 * KIB)
    failing, other = link.flow("failing"), link.flow("other")
    lost = [endless(failing), endless(failing)]
    kept = other.copy(bytearray(1 << 20), 0, bytes(1 << 20), 0, 1 << 20)
    failing.close()
    failing.close()
    for copy in lost:
        assert copy.wait(PATIENCE_S)
        assert copy.error == "the flow was closed"
    finish(kept)
    with pytest.raises(RuntimeError, match='flow "failing" is closed'):
        failing.copy(bytearray(1), 0, bytes(1), 0, 1)
    with pytest.raises(RuntimeError, match="closed"):
        failing.weight = 2.0
    assert list(link.stats()) == ["other"]
    link.flow("failing").close()


def test_closing_the_link_ends_everything():
    link = _native.Link(threads=2, chunk_bytes=64 * KIB)
    flow = link.flow("a")
    block, called = bytearray(64 * KIB), list[_native.Copy]()
    first = endless(flow)  # The others wait behind it.
    copies = [
        flow.copy(block, 0, bytes(len(block)), 0, len(block), called.append) for _ in range(20)
    ]
    link.close()
    link.close()
    assert all(copy.done for copy in [first, *copies])
    assert {copy.error for copy in [first, *copies]} == {"the link was closed"}
    assert len(called) == 20
    assert {id(copy) for copy in called} == {id(copy) for copy in copies}
    for refused in (lambda: link.flow("b"), lambda: endless(flow)):
        with pytest.raises(RuntimeError, match="closed"):
            refused()


def test_a_link_may_go_while_copies_wait():
    link = _native.Link(chunk_bytes=64 * KIB)
    copy = endless(link.flow("a"))
    del link
    gc.collect()
    assert copy.wait(PATIENCE_S)
    assert copy.error == "the link was closed"


def test_threads_that_wait_see_the_end(make_link: MakeLink):
    link = make_link(chunk_bytes=64 * KIB)
    copy = endless(link.flow("a"))
    waiting = threading.Barrier(5)
    seen = []

    def wait() -> None:
        waiting.wait()
        seen.append(copy.wait(PATIENCE_S))

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    waiting.wait()
    link.close()
    for thread in threads:
        thread.join()
    assert seen == [True] * 4


def test_a_played_bus_moves_as_many_bytes_a_second_as_it_says(make_link: MakeLink):
    rate, half = 50e6, 2_500_000
    for threads in (1, 2):
        link = make_link(emulate_bytes_per_s=rate, chunk_bytes=64 * KIB, threads=threads)
        flows = [link.flow("a"), link.flow("b", weight=3)]
        rates = []
        for _ in range(5):
            copies = [f.copy(bytearray(half), 0, bytes(half), 0, half) for f in flows]
            finish(*copies)
            # From when it was asked: a link that was kept from the processor catches up, as a bus.
            asked_ns = min(c.submitted_ns for c in copies)
            rates.append(2 * half / (max(c.ended_ns for c in copies) - asked_ns) * 1e9)
        # A busy machine makes it slower at times, nothing makes it faster.
        assert 0.95 * rate < max(rates) < 1.05 * rate


def test_a_played_bus_delays_each_copy_once(make_link: MakeLink):
    latency_ns = 300_000_000
    link = make_link(emulate_latency_ns=latency_ns, chunk_bytes=KIB)
    flow = link.flow("a")
    block = bytearray(100)
    copies = [flow.copy(block, 0, b"x" * 100, 0, 100) for _ in range(5)]
    finish(*copies)
    for copy in copies:
        assert copy.ended_ns - copy.started_ns >= latency_ns
    # Together, not one after another: the last starts before the first has arrived.
    assert copies[-1].started_ns < copies[0].ended_ns
