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
from missile_jax.options import HttpOptions, LogOptions, ObserveOptions, TraceOptions
from missile_jax.runtime import Runtime
from missile_jax.schedule.view import Policy
from missile_jax.server.serve import HttpServer
from missile_jax.spec import Model, Tenant


class Serving:
    """A runtime and the server in front of it, to be closed together.

    runtime: may be used directly beside the server.
    url: where clients reach it.
    """

    def __init__(self, runtime: Runtime, server: HttpServer, drain_s: float) -> None:
        self.runtime = runtime
        self.url = server.url
        self._server = server
        self._drain_s = drain_s

    def close(self) -> None:
        """Take no more requests, finish those in flight, close the runtime. May be called again."""
        self._server.close()
        self.runtime.close(drain=True, timeout_s=self._drain_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(
    models: Sequence[Model],
    *,
    http_port: int | None = None,
    host: str | None = None,
    http: HttpOptions = HttpOptions(),
    observe: ObserveOptions = ObserveOptions(),
    trace: TraceOptions = TraceOptions(),
    log: LogOptions = LogOptions(),
    policy: str | Policy = "missile",
    device_memory: int | str | None = None,
    host_memory: int | str | None = None,
    disk: str | os.PathLike[str] | None = None,
    tenants: Mapping[str, Tenant] | None = None,
    block: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> Serving:
    """Load `models` and serve them over the Open Inference Protocol.

    http: where and how HTTP is served. http_port, host: in place of its `port` and `host`.
    observe, trace, log: what the server shows of itself, and what it writes of inferences.
    policy, device_memory, host_memory, disk, tenants: see `Runtime`.
    block: serve until SIGINT or SIGTERM, drain, and return the closed handle. If False, return at
        once a handle to close, which is a context manager.
    report: called with a line for each thing done: a model that was loaded, the url, the end.

    Raises ConfigError for a wrong argument or an address in use, before any model is loaded;
    ModelLoadError for a model that cannot be compiled.
    """
    names = [model.name for model in models]
    if len(set(names)) != len(names):
        raise ConfigError(f"models have names {names}; each must have its own")
    if block and threading.current_thread() is not threading.main_thread():
        raise ConfigError("block=True waits for signals, so it needs the main thread")
    chosen = {"port": http_port, "host": host}
    http = http.model_copy(update={k: v for k, v in chosen.items() if v is not None})
    with contextlib.ExitStack() as undo:
        runtime = undo.enter_context(
            Runtime(
                policy=policy,
                device_memory=device_memory,
                host_memory=host_memory,
                disk=disk,
                tenants=tenants,
            )
        )
        server = HttpServer(runtime, http, observe=observe, trace=trace, log=log)
        undo.callback(server.close)
        for model in models:
            start = time.perf_counter()
            info = runtime.load(model)
            seconds = time.perf_counter() - start
            report(f"loaded {info.name} ({info.priority.value}) in {seconds:.1f} s")
        server.start()
        serving = Serving(runtime, server, http.drain_s)
        undo.pop_all()
    ready = f"serving {', '.join(names)} on {serving.url}"
    if not block:
        report(ready)
        return serving
    with serving, _stop_signals() as stop:
        report(f"{ready}; stop with Ctrl-C")
        stop.wait()
        report("draining")
    report("stopped")
    return serving


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
