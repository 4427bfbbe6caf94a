"""A CPU whose threads yield: a second client of XLA, for best-effort work.

Threads of the class SCHED_IDLE run on processors that no other thread of their group wants, and
leave them at once when one does. A thread is what it was made as, and XLA makes a client's threads
with the client; so a client that is made by a thread of that class has no others.
"""

from __future__ import annotations

import logging
import os
import threading
from functools import cache

from missile_jax.spec import JaxDevice

_log = logging.getLogger(__name__)


@cache
def yielding(device: JaxDevice) -> JaxDevice | None:
    """A device of the same processors as the CPU `device`, whose threads yield; one for a process.

    None if there is none: on another platform, with several CPU devices in a process, or where the
    system or this version of JAX (whose way to make a client is private) has no such thing. It is
    logged which.
    """
    if device.platform != "cpu":
        return None
    if len(device.client.local_devices()) != 1:
        _log.info("best-effort threads do not yield: this process has several CPU devices")
        return None
    made: list[JaxDevice] = []
    failed: list[Exception] = []

    def make() -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            from jaxlib.xla_client import make_cpu_client

            made.extend(make_cpu_client(asynchronous=True, num_devices=1).local_devices())
        except Exception as error:  # noqa: BLE001 - private, so that it may raise anything
            failed.append(error)

    thread = threading.Thread(target=make, name="missile-yielding")
    thread.start()
    thread.join()
    if failed:
        _log.info("best-effort threads do not yield: %r", failed[0])
        return None
    return made[0]
