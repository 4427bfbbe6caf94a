"""memory.transfers: inputs and results of requests over the link, on the fake CUDA driver."""

import gc
import threading
import weakref

import numpy as np
import pytest
from card_programs import MIB, OnDevice, opened
from fake_driver import PATIENCE_S, until
from ml_dtypes import bfloat16, float8_e4m3fn

from missile_jax.engine.job import Job
from missile_jax.errors import DeviceMemoryError, RuntimeClosedError
from missile_jax.memory.parameters import Fixed


def content(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, MIB), np.uint8)


def check(future, x: np.ndarray) -> None:
    for result, value in zip(future.result(0), (1, 2), strict=True):
        np.testing.assert_array_equal(result, x + np.uint8(value))
        assert not result.flags.writeable


def in_a_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.smoke
def test_requests_are_answered_over_the_link_both_ways(driver):
    xs = [content(rows, seed) for seed, rows in enumerate((1, 1, 2, 2, 1))]
    with opened(driver) as card:
        card.serve("m")
        before = driver.calls("cuMemcpyHtoDAsync_v2")
        futures = []
        for x in xs:
            given = x.copy()
            futures.append(card.submit("m", given))
            given[:] = 0  # The caller's own again.
        card.run()
        for future, x in zip(futures, xs, strict=True):
            check(future, x)
        flow = card.flows.stats()["default/best_effort"]
        # Pairs of one row share a batch; what is alone fills one.
        assert flow["bytes"] == 7 * MIB
        assert flow["to_host"]["bytes"] == 14 * MIB
        assert driver.calls("cuMemcpyHtoDAsync_v2") > before
        assert driver.unpinned_copies == 0
        assert card.inputs.free_bytes == card.inputs.size_bytes
        assert card.room.stats()["inputs_by_xla"] == 0
        del futures, future
        gc.collect()
        assert card.pinned.free_bytes == card.pinned.size_bytes


def test_an_input_that_is_alone_in_its_batch_goes_from_where_it_was_staged(driver):
    with opened(driver) as card:
        card.serve("m")
        before = driver.calls("cuMemcpyHtoDAsync_v2")
        card.submit("m", content(2))
        card.run()
        # A copy for each chunk of the link, not for each buffer that it would be staged in.
        assert driver.calls("cuMemcpyHtoDAsync_v2") - before == 2


def test_an_input_stays_until_the_last_launch_that_reads_it_has_been_seen_to_end(driver):
    x, y = content(2, 1), content(2, 2)
    with opened(driver, room=2 * MIB) as card:
        card.serve("m")
        future = card.submit("m", x)
        card.compute.hold()
        stepping = in_a_thread(card.run)
        # The launch has been enqueued, and XLA is done with the array.
        until(lambda: driver.calls("fakeAdd") == 2 and card.inputs.stats()["views"] == 0)
        assert card.room.on_device(1) is None
        card.compute.let_go()
        stepping.join(PATIENCE_S)
        check(future, x)
        assert card.inputs.free_bytes == 2 * MIB
        check_again = card.submit("m", y)
        card.run()
        check(check_again, y)


def test_segments_share_an_input_and_the_last_one_gives_it_back(driver):
    x = content(2)
    with opened(driver) as card:
        card.serve("m")
        request = card.request("m", x)
        job = Job(request.program, Fixed(()), [request])
        for left in (2 * MIB, 4 * MIB):
            piece = job.piece(whole=False)
            piece.run()
            job.advance(piece)
            assert card.inputs.free_bytes == left
        for result, value in zip(job.answers()[0], (1, 2), strict=True):
            np.testing.assert_array_equal(result, x + np.uint8(value))


def test_xla_brings_what_the_device_has_no_room_for(driver):
    xs = [content(2, seed) for seed in (1, 2)]
    with opened(driver, room=MIB) as card:
        card.serve("m")
        futures = [card.submit("m", x) for x in xs]
        card.run()
        for future, x in zip(futures, xs, strict=True):
            check(future, x)
        assert card.room.stats() == {
            "inputs": 0, "results": 4, "inputs_by_xla": 2, "unpinned": 0
        }  # fmt: skip
        assert card.flows.stats()["default/best_effort"]["bytes"] == 0


def test_where_pinned_memory_is_full_the_links_own_buffers_serve(driver):
    x = content(2)
    with opened(driver, pinned=MIB) as card:
        card.serve("m")
        future = card.submit("m", x)
        card.run()
        check(future, x)
        flow = card.flows.stats()["default/best_effort"]
        assert (flow["bytes"], flow["to_host"]["bytes"]) == (2 * MIB, 4 * MIB)
        assert driver.unpinned_copies == 0
        assert card.room.stats() == {
            "inputs": 1, "results": 2, "inputs_by_xla": 0, "unpinned": 3
        }  # fmt: skip


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("cuMemcpyHtoDAsync_v2", "model 'm': its inputs did not reach the device"),
        ("cuMemcpyDtoHAsync_v2", "model 'm': its results did not reach the host"),
    ],
)
def test_a_copy_that_fails_is_its_own_requests_error_alone(driver, call, said):
    xs = [content(2, seed) for seed in range(3)]
    with opened(driver) as card:
        for name in ("m", "n"):
            card.serve(name)
        driver.fail(call, 2)
        failed, *others = [card.submit(name, x) for name, x in zip("mnm", xs, strict=True)]
        card.run()
        with pytest.raises(DeviceMemoryError, match=f"{said}: {call}: CUDA_ERROR_ILLEGAL"):
            failed.result(0)
        for future, x in zip(others, xs[1:], strict=True):
            check(future, x)
        del failed, others, future
        gc.collect()
        assert card.inputs.free_bytes == card.inputs.size_bytes
        assert card.pinned.free_bytes == card.pinned.size_bytes


def test_a_request_that_is_given_up_while_it_is_copied_leaves_nothing(driver):
    x = content(2)
    with opened(driver) as card:
        card.serve("m")
        given_up = card.submit("m", content(2, 9))
        with driver.held():
            stepping = in_a_thread(card.mux.step)
            until(lambda: card.inputs.free_bytes < card.inputs.size_bytes)
            assert given_up.cancel()
        stepping.join(PATIENCE_S)
        future = card.submit("m", x)
        card.run()
        check(future, x)
        assert card.inputs.free_bytes == card.inputs.size_bytes


class Broken(OnDevice):
    def unsafe_buffer_pointer(self):
        raise KeyboardInterrupt


def test_both_ends_of_a_copy_stay_until_it_has_ended_though_nobody_waits(driver):
    with opened(driver) as card:
        transfers = card.transfers("m")
        results = [card.sum(0, content(2, 3)), Broken(0, (2, MIB), None)]
        results[0].block_until_ready()
        seen = weakref.ref(results[0])
        with driver.held():
            with pytest.raises(KeyboardInterrupt):
                transfers.to_host(results)
            results.clear()
            gc.collect()
            assert seen() is not None
            assert card.pinned.free_bytes < card.pinned.size_bytes
        until(lambda: seen() is None)
        until(lambda: card.pinned.free_bytes == card.pinned.size_bytes)


def test_small_arrays_and_those_without_views_are_left_to_xla(driver):
    small = content(1)[:, :-1]
    odd = np.zeros((2, MIB), float8_e4m3fn)
    host = content(2)
    with opened(driver) as card:
        transfers = card.transfers("m")
        inputs, held = transfers.to_device([small, odd])
        assert inputs[0] is small
        assert inputs[1] is odd
        assert not held
        results = transfers.to_host([small, odd, host])
        assert [a is b for a, b in zip(results, (small, odd, host), strict=True)] == [True] * 3
        assert card.flows.stats() == {}
        assert transfers.stage(small) is not small
        assert card.pinned.free_bytes == card.pinned.size_bytes


@pytest.mark.parametrize("dtype", [np.bool_, np.float32, bfloat16, float8_e4m3fn])
def test_any_dtype_is_staged_in_pinned_memory(driver, dtype):
    given = np.arange(3 * MIB).reshape(3, -1).astype(dtype)
    with opened(driver) as card:
        staged = card.transfers("m").stage(given)
        assert (staged.shape, staged.dtype) == (given.shape, given.dtype)
        assert staged.tobytes() == given.tobytes()
        assert card.pinned.contains(staged.ctypes.data)
        del staged
        assert card.pinned.free_bytes == card.pinned.size_bytes


def test_a_link_that_is_closed_copies_nothing(driver):
    with opened(driver) as card:
        transfers = card.transfers("m")
        result = card.sum(0, content(1))
        card.flows.close()
        for work, given in ((transfers.to_device, content(1)), (transfers.to_host, result)):
            with pytest.raises(RuntimeClosedError, match="model 'm': the link is closed"):
                work([given])
