"""What runs pieces of jobs: the contract, and the XLA device in its two ways of running."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from missile_jax.engine.job import Job, Piece
from missile_jax.engine.request import Request

# Called when a piece has run, with what it raised or None.
Finished = Callable[[Piece, BaseException | None], None]


class Device(Protocol):
    """Runs pieces. `launch` never runs one itself; `finished` is called once for each.

    simulated: whether results are made up.
    autonomous: whether pieces run by themselves; otherwise `pump` runs the next one, and nothing
        is launched between two steps of the user's loop.
    """

    simulated: bool
    autonomous: bool

    def launch(self, piece: Piece, finished: Finished) -> None: ...

    def pump(self) -> bool:
        """Runs or awaits the next piece. False if there is none."""
        ...

    def attend(self, request: Request, submit: Callable[[Request], object]) -> None:
        """Calls `submit` for a thread that then has nothing to do but wait for `request`.

        Pieces of the request's job that are launched from this thread may run on it, which spares
        two switches of threads.
        """
        ...

    def answers(self, job: Job) -> list[Any]:
        """The results of a job that has run, one for each of its requests."""
        ...

    def close(self) -> None: ...


class InlineDevice:
    """XLA, one piece at a time, on whatever thread calls `pump`: for a loop of the user's own."""

    simulated = False
    autonomous = False

    def __init__(self) -> None:
        self._pending: SimpleQueue[tuple[Piece, Finished]] = SimpleQueue()

    def launch(self, piece: Piece, finished: Finished) -> None:
        self._pending.put((piece, finished))

    def pump(self) -> bool:
        try:
            piece, finished = self._pending.get_nowait()
        except Empty:
            return False
        _run_here(piece, finished)
        return True

    def attend(self, request: Request, submit: Callable[[Request], object]) -> None:
        submit(request)

    def answers(self, job: Job) -> list[Any]:
        return job.answers()

    def close(self) -> None:
        """Nothing to end."""


class _Own:
    """What a thread is to run next, launched from the thread itself.

    request: the one it attends to; only pieces of that one's job. lane: it runs any piece.
    """

    __slots__ = ("lane", "request", "work")

    def __init__(self) -> None:
        self.request: Request | None = None
        self.lane = False
        self.work: tuple[Piece, Finished] | None = None


class _Here(threading.local):
    """Of the thread that asks."""

    def __init__(self) -> None:
        self.own = _Own()


class LaneDevice:
    """XLA, each piece in flight on a thread of its own.

    A lane is a thread that launches a piece, blocks until it is ready and reports. What a finished
    piece makes possible runs on the same thread, without a switch. The lane that was free last is
    taken first.
    """

    simulated = False
    autonomous = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._here = _Here()
        self._free: list[SimpleQueue[tuple[Piece, Finished] | None]] = []
        self._lanes: list[tuple[threading.Thread, SimpleQueue[tuple[Piece, Finished] | None]]] = []

    def launch(self, piece: Piece, finished: Finished) -> None:
        own = self._here.own
        mine = own.lane or (own.request is not None and piece.job.requests[0] is own.request)
        if mine and own.work is None:
            own.work = (piece, finished)
        else:
            self._hand_over((piece, finished))

    def pump(self) -> bool:
        return False

    def attend(self, request: Request, submit: Callable[[Request], object]) -> None:
        # A callback may wait for a request in its turn, on a thread that has work of its own.
        own = self._here.own
        self._release(own)
        lane, own.lane, own.request = own.lane, False, request
        try:
            submit(request)
            while (work := own.work) is not None:
                own.work = None
                _run_here(*work)
        finally:
            own.request = None
            self._release(own)
            own.lane = lane

    def _release(self, own: _Own) -> None:
        work, own.work = own.work, None
        if work is not None:
            self._hand_over(work)

    def _hand_over(self, work: tuple[Piece, Finished]) -> None:
        with self._lock:
            lane = self._free.pop() if self._free else self._new_lane()
        lane.put(work)

    def answers(self, job: Job) -> list[Any]:
        return job.answers()

    def close(self) -> None:
        """Ends the lanes once what they run is done."""
        with self._lock:
            lanes, self._lanes = self._lanes, []
        for _, lane in lanes:
            lane.put(None)
        for thread, _ in lanes:
            if thread is not threading.current_thread():
                thread.join()

    def _new_lane(self) -> SimpleQueue[tuple[Piece, Finished] | None]:
        lane: SimpleQueue[tuple[Piece, Finished] | None] = SimpleQueue()
        name = f"missile-lane-{len(self._lanes)}"
        thread = threading.Thread(target=self._serve, args=(lane,), name=name, daemon=True)
        self._lanes.append((thread, lane))
        thread.start()
        return lane

    def _serve(self, lane: SimpleQueue[tuple[Piece, Finished] | None]) -> None:
        own = self._here.own
        own.lane = True
        while (work := lane.get()) is not None:
            while work is not None:
                piece, finished = work
                finished(piece, _run(piece))
                # A piece holds arrays: do not keep them while the lane waits.
                del piece, finished
                work, own.work = own.work, None
            with self._lock:
                self._free.append(lane)


def _run_here(piece: Piece, finished: Finished) -> None:
    """For a thread of the user's, which is to see its own KeyboardInterrupt."""
    error = _run(piece)
    finished(piece, error)
    if error is not None and not isinstance(error, Exception):
        raise error


def _run(piece: Piece) -> BaseException | None:
    try:
        piece.run()
    except BaseException as error:  # noqa: BLE001 - whatever a model raises belongs to its request
        return error
    return None
