"""A coroutine that begins at once, and becomes a task only where it waits for something.

Most requests are answered before they wait for anything. A task would begin them a turn of the
event loop later, which a short request notices. Python 3.12 has `asyncio.eager_task_factory`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any


def begin(
    work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop
) -> asyncio.Task[None] | None:
    """Run `work` on this thread, which is in `loop`, as far as it goes; then a task for the rest.

    None where it has ended. Up to its first wait there is no current task; what it raises there is
    raised here.
    """
    try:
        awaited = work.send(None)
    except StopIteration:
        return None
    return loop.create_task(_rest(work, awaited))


async def _rest(work: Coroutine[Any, Any, None], awaited: Any) -> None:
    await _go_on(work, awaited)


@coroutine
def _go_on(work: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """What `work` yields from now on: `awaited`, and what comes behind it."""
    while True:
        try:
            sent = yield awaited
        except BaseException as error:  # noqa: BLE001 - it is the work's, a cancellation too
            step, value = work.throw, error
        else:
            step, value = work.send, sent
        try:
            awaited = step(value)
        except StopIteration:
            return
