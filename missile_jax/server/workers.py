"""Threads that take large requests and answers off the event loop.

To decode, copy or encode megabytes takes milliseconds, for which every other client would wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

# To copy so much takes as long as to hand it to a thread and back.
LARGE_BYTES = 2**20

T = TypeVar("T")


class Workers:
    """One thread for latency models and one for the others, so that neither waits for the other.

    Each does what it is given in order. A front end has its own, and closes it. What waits is
    bounded by what a front end has in flight: a request for each connection, or for each place of a
    stream.
    """

    def __init__(self, name: str) -> None:
        self._latency = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-large-ls")
        self._best_effort = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-large-be")

    async def run(
        self, latency: bool, call: Callable[[], T], undo: Callable[[T], Any] | None = None
    ) -> T:
        """What `call` gives.

        Where the caller is cancelled meanwhile, `call` is left out, or `undo` is told what it gave.
        """
        executor = self._latency if latency else self._best_effort
        work = executor.submit(call)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            if undo is not None:
                work.add_done_callback(lambda work: _undo(work, undo))
            raise

    def close(self) -> None:
        """Wait for what is under way, and end the threads."""
        for executor in (self._latency, self._best_effort):
            executor.shutdown(cancel_futures=True)


def _undo(work: Future[T], undo: Callable[[T], Any]) -> None:
    if not work.cancelled() and work.exception() is None:
        undo(work.result())
