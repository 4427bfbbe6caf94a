"""`serve`: models in, a running server out."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from missile_jax.errors import ConfigError
from missile_jax.options import GrpcOptions, HttpOptions, Options, ServerOptions
from missile_jax.runtime import Runtime
from missile_jax.schedule.view import Policy
from missile_jax.server.access import Access
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.repository import Repository
from missile_jax.server.serve import HttpServer
from missile_jax.server.watch import Watch
from missile_jax.signals import Order, Signals, signals
from missile_jax.spec import Model, ModelSource, Tenant

if TYPE_CHECKING:
    from missile_jax.server.grpc.server import GrpcServer


OptionsT = TypeVar("OptionsT", bound=Options)
_log = logging.getLogger(__name__)


class _Drain(NamedTuple):
    """How long a server that ends still takes requests, and then has for those in flight."""

    delay_s: float
    limit_s: float


class Serving:
    """A runtime and the servers in front of it, to be closed together.

    runtime: may be used directly beside the servers.
    url: where clients reach it over HTTP.
    grpc_url: where clients reach it over gRPC, as ``"host:port"``; None where it is not served.
    admin_url: where those who run it reach it over HTTP, see `AdminOptions`; None for at `url`.
    """

    def __init__(
        self,
        runtime: Runtime,
        dataplane: Dataplane,
        repository: Repository,
        http: HttpServer,
        grpc: GrpcServer | None,
        admin: HttpServer | None,
        access: Access,
        watch: Watch | None,
        drain: _Drain,
    ) -> None:
        self.runtime = runtime
        self.url = http.url
        self.grpc_url = None if grpc is None else grpc.url
        self.admin_url = None if admin is None else admin.url
        self._servers = [server for server in (http, grpc, admin) if server is not None]
        self._dataplane = dataplane
        self._repository = repository
        self._access = access
        self._watch = watch
        self._drain = drain

    def reread(self, options: ServerOptions) -> None:
        """Take tokens and certificates from `options`, and no other change; requests go on.

        Raises ConfigError where they are wrong, or where one or the other is turned on or off; all
        stays as it was then.
        """
        self._access.replace(options)

    def close(self) -> None:
        """Take no more requests, finish those in flight, close the runtime. May be called again.

        First it is not ready any more for `drain_delay_s`, see `HttpOptions`.
        """
        if not self._dataplane.draining:
            self._dataplane.draining = True
            time.sleep(self._drain.delay_s)
        with ThreadPoolExecutor() as threads:
            for closed in [threads.submit(server.close) for server in self._servers]:
                closed.result()
        if self._watch is not None:
            self._watch.close()
        self._repository.close()
        self.runtime.close(drain=True, timeout_s=self._drain.limit_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(
    models: Sequence[Model | ModelSource],
    *,
    http_port: int | None = None,
    host: str | None = None,
    grpc_port: int | None = None,
    options: ServerOptions = ServerOptions(),
    policy: str | Policy = "missile",
    device_memory: int | str | None = None,
    host_memory: int | str | None = None,
    disk: str | os.PathLike[str] | None = None,
    tenants: Mapping[str, Tenant] | None = None,
    block: bool = True,
    reread: Callable[[], ServerOptions] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Serving:
    """Load `models` and serve them over the Open Inference Protocol.

    Clients are answered from the start on; the server is ready once the models are loaded.

    models: those that clients may load anew; a `Model` is loaded as it is, a `ModelSource` builds
        one each time.
    options: what the servers are told. http_port, grpc_port, host: in place of `options.http.port`,
        `options.grpc.port` and `options.http.host`.
    policy, device_memory, host_memory, disk, tenants: see `Runtime`.
    block: serve until SIGINT or SIGTERM, drain, and return the closed handle. If False, return at
        once a handle to close, which is a context manager.
    reread: called at each SIGHUP while it blocks, for `Serving.reread`; an error is logged. None
        for no change of what SIGHUP does.
    report: called with a line for each thing done: a model that is loaded, the url, the end.

    Raises ConfigError for a wrong argument, an address in use, or one that others reach and nothing
    protects (see `AuthOptions`), before any model is loaded; ModelLoadError for a model that cannot
    be compiled.
    """
    sources = [ModelSource.of(model) for model in models]
    names = [source.name for source in sources]
    if len(set(names)) != len(names):
        raise ConfigError(f"models have names {names}; each must have its own")
    if block and threading.current_thread() is not threading.main_thread():
        raise ConfigError("block=True waits for signals, so it needs the main thread")
    http = _changed(options.http, port=http_port, host=host)
    grpc = _changed(options.grpc, port=grpc_port)
    _check_exposure(options, http, grpc)
    orders = signals(reread=reread is not None) if block else contextlib.nullcontext(Signals())
    with orders as given, contextlib.ExitStack() as undo:
        access = Access(options)
        runtime = undo.enter_context(
            Runtime(
                policy=policy,
                device_memory=device_memory,
                host_memory=host_memory,
                disk=disk,
                tenants=tenants,
            )
        )
        watch = Watch.of(runtime, options.trace, options.log)
        if watch is not None:
            undo.callback(watch.close)
        repository = undo.enter_context(Repository(runtime, sources))
        dataplane = Dataplane(
            runtime,
            repository,
            options.shared_memory,
            tokens=access.tokens,
            limits=options.limits,
        )
        doors = _Doors(dataplane, options, access, watch)
        http_server = undo.enter_context(doors.http(http, admin=options.admin.port is None))
        admin_server = None
        if options.admin.port is not None:
            where = _changed(http, host=options.admin.host, port=options.admin.port)
            admin_server = undo.enter_context(doors.http(where, admin=True))
        grpc_server = None
        if grpc.port is not None:
            grpc_server = undo.enter_context(doors.grpc(grpc))
        _load(repository, sources, given.stop, report)
        undo.pop_all()
        drain = _Drain(http.drain_delay_s, max(http.drain_s, grpc.drain_s))
        serving = Serving(
            runtime,
            dataplane,
            repository,
            http_server,
            grpc_server,
            admin_server,
            access,
            watch,
            drain,
        )
        if not given.stop.is_set():
            _report_start(serving, sources, block, report)
        if block:
            while given.wait() is Order.REREAD:
                _reread(serving, reread, report)
            report("draining")
            serving.close()
            report("stopped")
    return serving


def _changed(options: OptionsT, **fields: Any) -> OptionsT:
    return options.model_copy(update={k: v for k, v in fields.items() if v is not None})


def _check_exposure(options: ServerOptions, http: HttpOptions, grpc: GrpcOptions) -> None:
    """Raises ConfigError where others than this machine reach a server that nothing protects."""
    listening = {"http": http, "grpc": grpc, "admin": options.admin}
    exposed = [
        f"{name}.host={section.host!r}"
        for name, section in listening.items()
        if section.port is not None and not _is_loopback(section.host)
    ]
    if not exposed:
        return
    found = f"{', '.join(exposed)} can be reached from other machines"
    if options.auth.tokens:
        if options.tls.certificate is None:
            _log.warning("%s, and tokens are sent in the clear: see TLS", found)
    elif options.tls.client_ca is None:
        if not options.auth.insecure:
            raise ConfigError(
                f"{found}, and anyone there could do everything; configure auth.tokens or "
                "tls.client_ca, or set auth.insecure to true where something else protects it"
            )
        _log.warning("%s, and anyone there may do everything", found)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Doors(NamedTuple):
    """What all servers of one `serve` have in common."""

    dataplane: Dataplane
    options: ServerOptions
    access: Access
    watch: Watch | None

    def http(self, http: HttpOptions, *, admin: bool) -> HttpServer:
        return HttpServer(
            self.dataplane,
            http,
            observe=self.options.observe,
            watch=self.watch,
            tls=self.access.tls,
            admin=admin,
        )

    def grpc(self, grpc: GrpcOptions) -> GrpcServer:
        try:
            from missile_jax.server.grpc.server import GrpcServer
        except ImportError as error:
            raise ConfigError(f"gRPC needs missile-jax[grpc]: {error}") from None
        return GrpcServer(
            self.dataplane,
            grpc,
            watch=self.watch,
            tls=self.access.tls,
            admin=self.options.admin.port is None,
        )


def _load(
    repository: Repository,
    sources: Sequence[ModelSource],
    stop: threading.Event,
    report: Callable[[str], None],
) -> None:
    for source in sources:
        if source.on_request or stop.is_set():
            continue
        report(f"loading {source.name}")
        start = time.perf_counter()
        info = repository.load(source.name)
        seconds = time.perf_counter() - start
        report(f"loaded {info.name} ({info.priority.value}) in {seconds:.1f} s")


def _report_start(
    serving: Serving, sources: Sequence[ModelSource], block: bool, report: Callable[[str], None]
) -> None:
    where = f"serving on {serving.url}"
    if serving.grpc_url is not None:
        where += f" and grpc://{serving.grpc_url}"
    if serving.admin_url is not None:
        where += f", for admins on {serving.admin_url}"
    report(where)
    for what, on_request in (("loaded", False), ("loaded on request", True)):
        names = [source.name for source in sources if source.on_request is on_request]
        if names:
            report(f"{what}: {', '.join(names)}")
    if block:
        report("stop with Ctrl-C")


def _reread(
    serving: Serving,
    reread: Callable[[], ServerOptions] | None,
    report: Callable[[str], None],
) -> None:
    assert reread is not None, "SIGHUP is left alone without"
    try:
        serving.reread(reread())
    except Exception as error:  # noqa: BLE001 - what is read anew must not end what is served
        unknown = None if isinstance(error, ConfigError) else error
        _log.error("tokens and certificates stay as they were: %s", error, exc_info=unknown)
    else:
        report("tokens and certificates were read again")
