"""What ran on the device in the last seconds, kept only while somebody looks."""

from __future__ import annotations

import contextlib
import threading
from collections import deque

from missile_jax.engine.multiplexer import LaunchRecord
from missile_jax.memory.memory import CopyRecord
from missile_jax.runtime import Runtime

_MAX_RECORDS = 2000
_FORGET_AFTER_S = 15.0


class Recent:
    """The latest launches of a runtime, from the first look on until none has come for a while."""

    def __init__(self, runtime: Runtime, forget_after_s: float = _FORGET_AFTER_S) -> None:
        self._runtime = runtime
        self._forget_after_s = forget_after_s
        self._lock = threading.Lock()
        self._launches: deque[LaunchRecord] = deque(maxlen=_MAX_RECORDS)
        self._stop = contextlib.ExitStack()
        self._timer: threading.Timer | None = None

    def look(self) -> list[LaunchRecord]:
        """Those that ended since the first look, the oldest first; at most the latest 2,000."""
        with self._lock:
            if self._timer is None:
                self._stop.enter_context(self._runtime.observed(self._launches.append, _ignore))
            else:
                self._timer.cancel()
            self._timer = threading.Timer(self._forget_after_s, self.close)
            self._timer.daemon = True
            self._timer.start()
            return list(self._launches)

    def close(self) -> None:
        """Stops keeping and forgets; the next look begins anew."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._stop.close()
            self._launches.clear()


def _ignore(copy: CopyRecord) -> None:
    """Copies are not shown."""
