"""The models that a server is configured for, loaded or not."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Self

from missile_jax.errors import (
    CheckpointError,
    MissileError,
    ModelNotFoundError,
    ModelUnavailableError,
    QueueFullError,
    RuntimeClosedError,
)
from missile_jax.runtime import Runtime
from missile_jax.spec import ModelInfo, ModelSource

READY = "READY"
LOADING = "LOADING"
UNAVAILABLE = "UNAVAILABLE"
# Loads and unloads that clients have asked for, with the one under way.
MAX_QUEUED = 64
_RETRY_AFTER_S = 10.0


class Entry(NamedTuple):
    """A model in the index. state: READY, LOADING or UNAVAILABLE. reason: why, or ""."""

    name: str
    state: str
    reason: str


class Repository:
    """Loads and unloads the models of `sources` in `runtime`, one after the other.

    Models that the runtime was given otherwise are listed too, and left alone.
    """

    def __init__(self, runtime: Runtime, sources: Iterable[ModelSource] = ()) -> None:
        self._runtime = runtime
        self._sources = {source.name: source for source in sources}
        # Of models that do not take requests, and of those whose last reload failed.
        self._notes = {
            name: Entry(name, UNAVAILABLE, "it is loaded on request" if s.on_request else "not yet")
            for name, s in self._sources.items()
        }
        self._startup = {name for name, s in self._sources.items() if not s.on_request}
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="missile-load")
        self._places = threading.BoundedSemaphore(MAX_QUEUED)

    @property
    def started(self) -> bool:
        """Whether every model that is loaded at startup has been."""
        return not self._startup

    def index(self) -> list[Entry]:
        """All models by name."""
        loaded = self._runtime.models()
        return [self._entry(name, name in loaded) for name in sorted({*self._sources, *loaded})]

    def _entry(self, name: str, loaded: bool) -> Entry:
        note = self._notes.get(name)
        if not loaded:
            return note or Entry(name, UNAVAILABLE, "unloaded")
        # The version that is there serves until another takes over.
        if note is not None and note.state == UNAVAILABLE:
            return Entry(name, READY, f"reload failed: {note.reason}")
        return Entry(name, READY, "")

    def check(self, name: str) -> ModelSource:
        """Where a model comes from. Raises ModelNotFoundError for one that is not configured."""
        try:
            return self._sources[name]
        except KeyError:
            allowed = ", ".join(sorted(self._sources)) or "none"
            raise ModelNotFoundError(
                f"no model named {name!r} is configured; allowed: {allowed}"
            ) from None

    def load(self, name: str) -> ModelInfo:
        """Builds a model and serves it, in place of the version that is there, if any.

        Takes as long as reading and compiling take. Where it fails, that version stays.

        Raises ModelNotFoundError for a model that is not configured, what building it raises, and
        what `Runtime.load` raises.
        """
        source = self.check(name)
        with self._lock:
            self._notes[name] = Entry(name, LOADING, "")
            try:
                info = self._runtime.load(source.build(), replace=True)
            except Exception as error:
                self._notes[name] = Entry(name, UNAVAILABLE, reason(error))
                raise
            del self._notes[name]
            self._startup.discard(name)
        return info

    def unload(self, name: str) -> None:
        """Takes a model out, once it has answered what it has; not an error if it is not loaded.

        Raises ModelNotFoundError for a model that is not configured.
        """
        self.check(name)
        with self._lock:
            with contextlib.suppress(ModelNotFoundError):
                self._runtime.unload(name, drain=True)
            self._notes[name] = Entry(name, UNAVAILABLE, "unloaded")
            self._startup.discard(name)

    def queue(self, call: Callable[[str], Any], name: str) -> Future[Any]:
        """Calls `load` or `unload` on a thread for that, after those that were queued before.

        Raises QueueFullError where too many were.
        """
        if not self._places.acquire(blocking=False):
            raise QueueFullError(
                f"{MAX_QUEUED} loads and unloads wait, which is the most; ask again later",
                _RETRY_AFTER_S,
            )
        try:
            queued = self._loader.submit(call, name)
        except RuntimeError:  # it is shut down
            self._places.release()
            raise RuntimeClosedError("the server is stopping") from None
        queued.add_done_callback(lambda _: self._places.release())
        return queued

    def absent(self, name: str, error: ModelNotFoundError) -> MissileError:
        """What to tell of a model that the runtime raised `error` for."""
        if name not in self._sources:
            return error
        _, state, why = self._entry(name, loaded=False)
        return ModelUnavailableError(f"model {name!r} is {state}{f': {why}' if why else ''}")

    def close(self) -> None:
        """Loads nothing any more; waits for a load that has begun. May be called twice."""
        self._loader.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def reason(error: Exception) -> str:
    """Why a model was not loaded, for clients: what others than we wrote may hold paths."""
    ours = isinstance(error, MissileError) and not isinstance(error, CheckpointError)
    if ours and error.__cause__ is None:
        return str(error)
    return f"{type(error.__cause__ or error).__name__}; the server's log says why"
