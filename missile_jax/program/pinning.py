"""XLA's threads of a CPU, each kept to a processor of its own.

A launch wakes all of them at once. After a pause the kernel tends to put two on one processor,
where each waits milliseconds for the other beside an idle one; threads kept apart cannot meet.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from missile_jax.spec import JaxDevice

_log = logging.getLogger(__name__)
# What XLA calls the threads that share the work of an operation.
_NAME = "tf_XLAEigen"


def pin_threads(device: JaxDevice) -> bool:
    """Gives each thread that computes for the CPU `device` one of this process's processors.

    Threads that yield (`program.yielding`) are left alone, as are other platforms. True if done.
    False, and it is logged why, if there are not as many such threads as processors: then they are
    not of one client, or the process was given other processors since they started.
    """
    if device.platform != "cpu":
        return False
    try:
        processors = sorted(os.sched_getaffinity(os.getpid()))
        threads = worker_threads()
        if len(threads) != len(processors):
            raise OSError(f"{len(threads)} threads of XLA for {len(processors)} processors")
        for thread, processor in zip(threads, processors, strict=True):
            os.sched_setaffinity(thread, {processor})
    except OSError as error:
        _log.info("threads stay where the system puts them: %s", error)
        return False
    return True


def worker_threads() -> list[int]:
    """Numbers of the threads that compute for CPU devices of this process and do not yield."""
    tids = sorted(int(task.name) for task in Path("/proc/self/task").iterdir())
    return [
        tid for tid in tids if _name(tid) == _NAME and os.sched_getscheduler(tid) != os.SCHED_IDLE
    ]


def _name(tid: int) -> str:
    try:
        return Path(f"/proc/self/task/{tid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return ""
