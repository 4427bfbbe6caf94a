"""The link to and from a GPU, on the fake CUDA driver."""

import gc
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_driver import PATIENCE_S, FakeDriver, finish, pinned, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from missile_jax._native import Arena, Link

KIB = 1 << 10
MIB = 1 << 20


def content(size_bytes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size_bytes, np.uint8)


@pytest.mark.smoke
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 20_000), min_size=1, max_size=6),
    chunk=st.sampled_from([700, 4096, 1 << 20]),
    threads=st.integers(1, 3),
    pins=st.tuples(st.booleans(), st.booleans()),
)
def test_bytes_go_there_and_back(driver, sizes, chunk, threads, pins):
    device = driver.device()
    total = sum(sizes)
    source, back = content(total + 5), np.zeros(total + 5, np.uint8)
    if pins[0]:
        source = pinned(device, source)
    if pins[1]:
        back = pinned(device, back)
    arena = Arena.on_cuda(device, 200 * KIB)
    block = arena.allocate(total + 5)
    at = (block.address, block)
    ends = np.cumsum(sizes).tolist()
    up = Link(cuda=device, threads=threads, chunk_bytes=chunk)
    down = Link(cuda=device, threads=threads, chunk_bytes=chunk, to_host=True)
    # In reverse order on the device.
    ranges = [(total - end, end - size, size) for end, size in zip(ends, sizes, strict=True)]
    finish(up.flow("a").copy_many(at, source, ranges))
    finish(down.flow("a").copy(back, 0, at, 0, total))
    up.close()
    down.close()
    expected = np.concatenate([source[a : a + n] for _, a, n in reversed(ranges)])
    np.testing.assert_array_equal(back[:total], expected)
    assert not back[total:].any()
    assert driver.unpinned_copies == 0


class Both:
    """A link each way with chunks of 256 KiB, and a block of 1 MiB."""

    def __init__(self, driver: FakeDriver) -> None:
        self.device = driver.device()
        self.arena = Arena.on_cuda(self.device, MIB)
        self.block = self.arena.allocate(MIB)
        self.at = (self.block.address, self.block)
        self.up = Link(cuda=self.device, threads=2, chunk_bytes=256 * KIB)
        self.down = Link(cuda=self.device, chunk_bytes=256 * KIB, to_host=True)
        self.to = self.up.flow("to")
        self.back = self.down.flow("back")


@pytest.fixture
def both(driver: FakeDriver) -> Iterator[Both]:
    one = Both(driver)
    yield one
    one.up.close()
    one.down.close()
    vars(one).clear()  # Pytest keeps a fixture longer than the driver.


@pytest.mark.parametrize("pin", [True, False])
def test_an_end_is_told_only_when_the_bytes_are_there(driver, both, pin):
    source, result = content(MIB), np.zeros(MIB, np.uint8)
    if pin:
        source, result = pinned(both.device, source), pinned(both.device, result)
    told = []
    with driver.held():
        copy = both.to.copy(both.at, 0, source, 0, MIB, told.append)
        assert not copy.wait(0.05)
        assert not told
    finish(copy)
    with driver.held():
        copy = both.back.copy(result, 0, both.at, 0, MIB)
        assert not copy.wait(0.05)
        assert not result.any()
    finish(copy)
    np.testing.assert_array_equal(result, source)
    both.up.close()
    assert len(told) == 1


def test_a_latency_copy_waits_for_the_chunks_in_flight_alone(driver, both):
    first = both.up.flow("first", latency=True)
    many, one = np.zeros(64 * MIB, np.uint8), content(256 * KIB)
    with driver.held():
        slow = both.to.copy_many(both.at, many, [(0, MIB * k, MIB) for k in range(64)])
        quick = first.copy(both.at, 0, one, 0, one.nbytes)
    finish(quick)
    finish(slow)
    assert quick.waited_chunks <= 2  # The workers' own.


def test_a_copy_that_fails_hurts_no_other(driver, both):
    source = pinned(both.device, content(MIB))
    driver.fail("cuMemcpyHtoDAsync_v2", 2)
    failed = both.to.copy(both.at, 0, source, 0, MIB)
    assert failed.wait(PATIENCE_S)
    assert failed.error.startswith("cuMemcpyHtoDAsync_v2: CUDA_ERROR_ILLEGAL_ADDRESS")
    finish(both.to.copy(both.at, 0, source, 0, MIB))
    result = np.zeros(MIB, np.uint8)
    finish(both.back.copy(result, 0, both.at, 0, MIB))
    np.testing.assert_array_equal(result, source)
    assert both.up.stats()["to"]["copies"] == 1
    assert both.up.stats()["to"]["cancelled"] == 1


def test_a_copy_to_no_device_memory_fails_with_the_drivers_word(driver, both):
    copy = both.to.copy(bytearray(8), 0, bytes(8), 0, 8)
    assert copy.wait(PATIENCE_S)
    assert copy.error.startswith("cuMemcpyHtoDAsync_v2: CUDA_ERROR_INVALID_VALUE")
    assert "not device memory" in driver.misuse()


class Owner:
    """Of memory at an address."""


@pytest.mark.parametrize("to_host", [False, True])
def test_a_copy_in_flight_can_be_cancelled(driver, both, to_host):
    host, flow = pinned(both.device, content(MIB)), both.back if to_host else both.to
    owner = Owner()
    ends = [(both.block.address, owner), (host.ctypes.data, host)]
    seen = weakref.ref(owner)
    del owner
    with driver.held():
        copy = flow.copy_many(*(ends[::-1] if to_host else ends), [(0, 0, MIB)] * 100)
        ends.clear()
        until(lambda: copy.started_ns)
        assert copy.cancel()
        assert not copy.wait(0.05)
        assert seen() is not None  # The chunk on the bus still needs it.
    assert copy.wait(PATIENCE_S)
    assert copy.error == "the copy was cancelled"
    until(lambda: seen() is None)


@pytest.mark.parametrize("to_host", [False, True])
def test_shares_follow_weights_in_either_direction(driver, to_host):
    device, turns = driver.device(), 64
    arena, host = Arena.on_cuda(device, 4 * KIB), Arena.pinned(device, 4 * KIB)
    blocks = [arena.allocate(4 * KIB), host.allocate(4 * KIB)]
    ends = [(block.address, block) for block in (blocks[::-1] if to_host else blocks)]
    link = Link(
        cuda=device, to_host=to_host, chunk_bytes=4 * KIB, history=1000, best_effort_share=0.0
    )
    gate = link.flow("gate", latency=True)
    flows = {name: link.flow(name, weight) for name, weight in (("light", 1), ("heavy", 3))}
    with driver.held():
        first = gate.copy_many(*ends, [(0, 0, 4 * KIB)])
        copies = [flow.copy_many(*ends, [(0, 0, 4 * KIB)] * turns) for flow in flows.values()]
    for copy in (first, *copies):
        finish(copy)
    served = link.history(1000)[:, 0]
    link.close()
    assert served[0] == gate.id
    # While both have something to copy.
    assert abs(np.sum(served[1:65] == flows["heavy"].id) - 48) <= 1


def test_memory_that_the_driver_does_not_know_of_goes_through_pinned_buffers(driver, both):
    driver.fail("cuPointerGetAttribute", 1, 1)
    source = pinned(both.device, content(MIB))
    before = driver.calls("cuMemcpyHtoDAsync_v2")
    finish(both.to.copy(both.at, 0, source, 0, MIB))
    finish(both.to.copy(both.at, 0, source.copy(), 0, MIB))
    assert driver.calls("cuMemcpyHtoDAsync_v2") - before == 8
    assert driver.unpinned_copies == 0


def test_to_host_needs_a_gpu():
    with pytest.raises(ValueError, match="to_host"):
        Link(to_host=True)


def use_everything(driver: FakeDriver, call: str) -> int:
    """Returns how often `call` was made before anything was given back."""
    begun = driver.calls(call)
    device = driver.device()
    arena = Arena.on_cuda(device, MIB)
    up = Link(cuda=device, threads=2, chunk_bytes=100 * KIB)
    down = Link(cuda=device, threads=2, chunk_bytes=100 * KIB, to_host=True)
    to, back = up.flow("to"), down.flow("back")
    before, block = arena.allocate(256), arena.allocate(250 * KIB)
    loose = content(250 * KIB)
    for source in (loose, pinned(device, loose)):
        finish(to.copy((block.address, block), 0, source, 0, source.nbytes))
    before.release()
    arena.compact()
    for result in (np.zeros_like(loose), pinned(device, np.zeros_like(loose))):
        finish(back.copy(result, 0, (block.address, block), 0, result.nbytes))
        np.testing.assert_array_equal(result, loose)
    return driver.calls(call) - begun


CALLS = """cuDeviceGetCount cuDeviceGet cuDevicePrimaryCtxRetain cuCtxPushCurrent_v2 cuMemAlloc_v2
cuMemHostAlloc cuMemcpyHtoDAsync_v2 cuMemcpyDtoHAsync_v2 cuMemcpyDtoDAsync_v2 cuStreamCreate
cuEventCreate cuEventRecord cuEventSynchronize""".split()


@pytest.mark.parametrize("call", CALLS)
def test_whichever_call_fails_is_named_and_nothing_is_left(driver, call):
    driver.delays(0, 0)
    count = use_everything(driver, call)
    assert count > 0
    for nth in range(1, count + 1):
        driver.fail(call, nth, 700)
        with pytest.raises(RuntimeError, match=f"{call}: CUDA_ERROR_ILLEGAL_ADDRESS"):
            use_everything(driver, call)
        gc.collect()
        assert (driver.leaks(), driver.misuse()) == ("", ""), f"{call}, the {nth}th time"
    assert use_everything(driver, call) == count


GIVING_BACK = {
    "cuMemFree_v2": "1 device allocations; ",
    "cuMemFreeHost": "1 pinned allocations; ",
    "cuStreamDestroy_v2": "1 streams; ",
    "cuEventDestroy_v2": "1 events; ",
    "cuDevicePrimaryCtxRelease_v2": "1 contexts; ",
}


@pytest.mark.parametrize("call", GIVING_BACK)
def test_what_the_driver_will_not_take_back_is_all_that_is_left(
    fake_cuda_library: Path, tmp_path: Path, call: str
):
    driver = FakeDriver(Path(shutil.copy(fake_cuda_library, tmp_path)))
    driver.fail(call, 1)
    use_everything(driver, call)
    gc.collect()
    assert driver.leaks() == GIVING_BACK[call]
