"""Devices: where pieces run, and that none is lost."""

import threading

import pytest

from missile_jax.engine.device import InlineDevice, LaneDevice


class Work:
    """A piece that runs `body`, of a job of one request."""

    def __init__(self, body=lambda: None, request=None):
        self.job = self
        self.requests = [request]
        self.run = body


class Ends:
    """Collects what finished, and on which thread."""

    def __init__(self):
        self.seen = []
        self._changed = threading.Condition()

    def __call__(self, piece, error):
        with self._changed:
            self.seen.append((piece, error, threading.get_ident()))
            self._changed.notify_all()

    def wait(self, count):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.seen) >= count, 60)


def raises(error):
    def body():
        raise error

    return body


@pytest.fixture
def lanes():
    device = LaneDevice()
    yield device
    device.close()


def test_inline_pieces_run_in_order_on_the_thread_that_pumps():
    device, ends = InlineDevice(), Ends()
    works = [Work(), Work(raises(ValueError("x")))]
    for work in works:
        device.launch(work, ends)
    assert not ends.seen
    assert device.pump()
    assert device.pump()
    assert not device.pump()
    assert [piece for piece, *_ in ends.seen] == works
    assert [type(error) for _, error, _ in ends.seen] == [type(None), ValueError]
    assert {thread for *_, thread in ends.seen} == {threading.get_ident()}


def test_an_interrupt_reaches_the_thread_that_pumps():
    device, ends = InlineDevice(), Ends()
    device.launch(Work(raises(KeyboardInterrupt())), ends)
    with pytest.raises(KeyboardInterrupt):
        device.pump()
    assert len(ends.seen) == 1


def test_lanes_run_pieces_at_once(lanes):
    ends, meet = Ends(), threading.Barrier(3)
    for _ in range(3):
        lanes.launch(Work(lambda: meet.wait(60)), ends)
    ends.wait(3)
    assert [error for _, error, _ in ends.seen] == [None] * 3
    assert len({thread for *_, thread in ends.seen}) == 3


def test_what_a_piece_makes_possible_runs_on_its_lane(lanes):
    ends = Ends()
    chain = [Work() for _ in range(5)]

    def finished(piece, error):
        later = chain[chain.index(piece) + 1 :]
        if later:
            lanes.launch(later[0], finished)
        ends(piece, error)

    lanes.launch(chain[0], finished)
    ends.wait(5)
    assert len({thread for *_, thread in ends.seen}) == 1


def test_a_lane_that_is_busy_with_answers_is_not_given_more(lanes):
    """A callback that waits for another piece must not wait for its own lane."""
    inner, outer = Ends(), Ends()

    def finished(piece, error):
        waiting = threading.Thread(target=lambda: lanes.launch(Work(), inner))
        waiting.start()
        waiting.join()
        inner.wait(1)
        outer(piece, error)

    lanes.launch(Work(), finished)
    outer.wait(1)


def test_a_thread_that_attends_runs_its_own_pieces(lanes):
    request, ends = object(), Ends()

    def submit(request):
        lanes.launch(Work(request=request), ends)
        lanes.launch(Work(request=object()), ends)

    lanes.attend(request, submit)
    ends.wait(2)
    threads = {piece.requests[0] is request: thread for piece, _, thread in ends.seen}
    assert threads[True] == threading.get_ident()
    assert threads[False] != threading.get_ident()


def test_a_piece_left_by_an_interrupted_thread_goes_to_a_lane(lanes):
    ends = Ends()

    def submit(request):
        lanes.launch(Work(request=request), ends)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lanes.attend(object(), submit)
    ends.wait(1)


def test_attending_within_a_callback_gives_outer_work_away(lanes):
    outer, inner, ends = object(), object(), Ends()

    def submit_outer(request):
        lanes.launch(Work(request=request), ends)
        lanes.attend(inner, lambda request: lanes.launch(Work(request=request), ends))

    lanes.attend(outer, submit_outer)
    ends.wait(2)
    threads = {piece.requests[0] is inner: thread for piece, _, thread in ends.seen}
    assert threads[True] == threading.get_ident()
    assert threads[False] != threading.get_ident()


def test_closing_ends_the_threads():
    before = threading.enumerate()
    device, ends = LaneDevice(), Ends()
    for _ in range(3):
        device.launch(Work(), ends)
    ends.wait(3)
    device.close()
    device.close()
    assert threading.enumerate() == before


def test_a_model_that_raises_does_not_end_its_lane(lanes):
    ends = Ends()
    for error in (ValueError("x"), SystemExit(), KeyboardInterrupt()):
        lanes.launch(Work(raises(error)), ends)
    ends.wait(3)
    lanes.launch(Work(), ends)
    ends.wait(4)
