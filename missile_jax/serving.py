"""`serve`: models in, a running server out."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Self

from missile_jax.errors import ConfigError
from missile_jax.options import HttpOptions
from missile_jax.runtime import Runtime
from missile_jax.schedule.view import Policy
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.repository import Repository
from missile_jax.server.serve import HttpServer
from missile_jax.spec import Model, ModelSource, Tenant


class Serving:
    """A runtime and the server in front of it, to be closed together.

    runtime: may be used directly beside the server.
    url: where clients reach it.
    """

    def __init__(
        self,
        runtime: Runtime,
        repository: Repository,
        dataplane: Dataplane,
        server: HttpServer,
        http: HttpOptions,
    ) -> None:
        self.runtime = runtime
        self.url = server.url
        self._repository = repository
        self._dataplane = dataplane
        self._server = server
        self._http = http

    def close(self) -> None:
        """Take no more requests, finish those in flight, close the runtime. May be called again.

        First it is not ready any more for `drain_delay_s`, see `HttpOptions`.
        """
        if not self._dataplane.draining:
            self._dataplane.draining = True
            time.sleep(self._http.drain_delay_s)
        self._server.close()
        self._repository.close()
        self.runtime.close(drain=True, timeout_s=self._http.drain_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(
    models: Sequence[Model | ModelSource],
    *,
    http_port: int | None = None,
    host: str | None = None,
    http: HttpOptions = HttpOptions(),
    policy: str | Policy = "missile",
    device_memory: int | str | None = None,
    host_memory: int | str | None = None,
    disk: str | os.PathLike[str] | None = None,
    tenants: Mapping[str, Tenant] | None = None,
    block: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> Serving:
    """Load `models` and serve them over the Open Inference Protocol.

    Clients are answered from the start on; the server is ready once the models are loaded.

    models: those that clients may load anew; a `Model` is loaded as it is, a `ModelSource` builds
        one each time.
    http: where and how HTTP is served. http_port, host: in place of its `port` and `host`.
    policy, device_memory, host_memory, disk, tenants: see `Runtime`.
    block: serve until SIGINT or SIGTERM, drain, and return the closed handle. If False, return at
        once a handle to close, which is a context manager.
    report: called with a line for each thing done: a model that was loaded, the url, the end.

    Raises ConfigError for a wrong argument or an address in use, before any model is loaded;
    ModelLoadError for a model that cannot be compiled.
    """
    sources = [ModelSource.of(model) for model in models]
    names = [source.name for source in sources]
    if len(set(names)) != len(names):
        raise ConfigError(f"models have names {names}; each must have its own")
    if block and threading.current_thread() is not threading.main_thread():
        raise ConfigError("block=True waits for signals, so it needs the main thread")
    chosen = {"port": http_port, "host": host}
    http = http.model_copy(update={k: v for k, v in chosen.items() if v is not None})
    signals = _stop_signals() if block else contextlib.nullcontext(threading.Event())
    with signals as stop, contextlib.ExitStack() as undo:
        runtime = undo.enter_context(
            Runtime(
                policy=policy,
                device_memory=device_memory,
                host_memory=host_memory,
                disk=disk,
                tenants=tenants,
            )
        )
        repository = undo.enter_context(Repository(runtime, sources))
        dataplane = Dataplane(runtime, repository)
        server = undo.enter_context(HttpServer(runtime, http, dataplane))
        _load(repository, sources, stop, report)
        undo.pop_all()
        serving = Serving(runtime, repository, dataplane, server, http)
        if not stop.is_set():
            report(f"serving {', '.join(names)} on {serving.url}{'; stop with Ctrl-C' * block}")
        if block:
            stop.wait()
            report("draining")
            serving.close()
            report("stopped")
    return serving


def _load(
    repository: Repository,
    sources: Sequence[ModelSource],
    stop: threading.Event,
    report: Callable[[str], None],
) -> None:
    for source in sources:
        if source.on_request or stop.is_set():
            continue
        start = time.perf_counter()
        info = repository.load(source.name)
        seconds = time.perf_counter() - start
        report(f"loaded {info.name} ({info.priority.value}) in {seconds:.1f} s")


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; the second signal does what it did before."""
    stop = threading.Event()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        restore()
        stop.set()

    before = {n: signal.signal(n, on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        restore()
