"""Signals to a server that runs in the foreground."""

from __future__ import annotations

import contextlib
import enum
import queue
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Order(enum.Enum):
    """What a signal asks for."""

    STOP = "stop"
    REREAD = "reread"


class Signals:
    """Orders in the order they came. stop: set by the first STOP, for those who cannot wait."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        # A handler runs between any two steps of the thread that waits: its `put` may interrupt.
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()

    def give(self, order: Order) -> None:
        """Called by a handler."""
        if order is Order.STOP:
            self.stop.set()
        self._orders.put(order)

    def wait(self) -> Order:
        """The next order."""
        return self._orders.get()


@contextlib.contextmanager
def signals(*, reread: bool) -> Iterator[Signals]:
    """SIGINT and SIGTERM as STOP; the second does what it did before. reread: SIGHUP as REREAD.

    For the main thread.
    """
    given = Signals()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_stop(number: int, frame: FrameType | None) -> None:
        restore()
        given.give(Order.STOP)

    def on_hangup(number: int, frame: FrameType | None) -> None:
        given.give(Order.REREAD)

    hangup = None
    if reread:
        hangup = signal.signal(signal.SIGHUP, on_hangup)
    before = {n: signal.signal(n, on_stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield given
    finally:
        restore()
        if reread:
            signal.signal(signal.SIGHUP, hangup)
