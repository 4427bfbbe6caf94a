"""Runtime: load models, send requests, drive the device."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from missile_jax._native import Tenant as NativeTenant
from missile_jax._native import keep_freed_memory
from missile_jax.arbiter import join
from missile_jax.engine.clock import WallClock
from missile_jax.engine.device import InlineDevice, LaneDevice
from missile_jax.engine.multiplexer import LaunchRecord, Multiplexer, ReplacedError
from missile_jax.engine.request import NEVER_NS, Request, RequestFuture
from missile_jax.engine.sharing import Sharing
from missile_jax.engine.stats import latency_percentiles
from missile_jax.engine.table import Served
from missile_jax.errors import ConfigError, ModelLoadError, RuntimeClosedError
from missile_jax.memory.memory import CopyRecord, Memory
from missile_jax.memory.parameters import Fixed, Parameters
from missile_jax.program.build import Builder
from missile_jax.program.compile import persistent_cache
from missile_jax.program.costs import MeasuredCosts
from missile_jax.program.load import load
from missile_jax.program.pinning import pin_threads
from missile_jax.program.plan import Plan
from missile_jax.program.program import Inputs, Program
from missile_jax.program.yielding import yielding
from missile_jax.schedule.admission import level_of
from missile_jax.schedule.policies import make_policy
from missile_jax.schedule.queue import RequestQueue
from missile_jax.schedule.view import Policy
from missile_jax.spec import JaxDevice, Model, ModelInfo, Priority, PyTree, Tenant, size_bytes

# A latency-sensitive request that is shorter runs on the thread that submits it, if the device is
# free: handing it to another thread and back takes as long.
_NOT_WORTH_A_SWITCH_NS = 300_000
# Length of a segment that keeps LS waits short and launches cheap (docs/segments.md).
_QUANTUM_MS = {"cpu": 12.0, "gpu": 1.0}


# Has this thread call a function a little later, as an event loop's `call_soon` does.
Soon = Callable[[Callable[[], None]], object]


class Runtime:
    """Many models on one device.

    Used in a ``with`` block, or after `start`, it runs on threads of its own, and `infer`,
    `submit` and `ainfer` may be called from any number of threads. Without, it has no thread:
    `step` and `run_until_idle` do the work on the caller's, and `infer` calls them itself.

    policy: ``"missile"``, ``"concurrent"``, ``"fifo"`` or a policy object, such as
        ``Missile(best_effort_floor=0.1)``.
    device: where models run; JAX's first device by default.
    quantum_ms: the length that best-effort segments should not exceed; 12 on a CPU, 1 on a GPU.
    device_memory: how much of the device the runtime may take, in bytes or as ``"2GiB"``. Models'
        parameters then lie in host memory and come to the device when they are used, so that more
        models are served than fit (docs/swapping.md). None: all parameters stay on the device.
    host_memory: how much of host memory parameters may take, likewise; None for no limit. A model
        that is being loaded comes on top.
    disk: a folder for models that host_memory has no room for. The least recently used go there, as
        Orbax checkpoints, and come back when they are used. What a runtime writes there goes when
        it is closed. None: a model that host memory has no room for is refused.
    tenants: by name, what a tenant gets of the link, of device memory and of queues; see `Tenant`.
    link_bytes_per_s: let copies to the device be no faster than this, to see how models would be
        served over a slower bus; None for as fast as the machine copies.
    eviction: who leaves the device first when room is wanted: ``"greedy_dual"`` (default), who is
        worth least, by delay saved, uses and age; ``"light_first"``, models that are quick to bring
        back; ``"lru"``, least recent use alone.
    copy_observer: called with a CopyRecord after each copy of parameters to the device.
    cache_dir: for compiled programs and measured costs; ``$MISSILE_CACHE`` or
        ``~/.cache/missile_jax`` by default. JAX's own compilation cache setting wins.
    observer: called with a LaunchRecord after each launch, on the launching thread.
    arbiter: the name of a device that other processes share, such as ``"cpu"``; by default
        ``$MISSILE_ARBITER``. LS requests are then announced to them, and best-effort launches wait
        for theirs, and for turns, unless they yield: see docs/arbiter.md. Empty: the device is not
        shared.
    pin: on a CPU, keep each of XLA's threads to a processor of its own, so that a launch after a
        pause does not wait for two that woke up on one (docs/scheduling.md). For this process, and
        for good.

    On a CPU, best-effort models run on threads that leave their processors to all other threads of
    the program's group; a policy says otherwise (``Missile(yielding=False)``).

    Two things change for the whole process (docs/scheduling.md). Memory that is freed is kept for
    the next launch's buffers; that reaches furthest if the runtime is made before JAX is first
    used. And what lives when a model has been loaded is left out of Python's garbage collection,
    which stops all threads while it looks at every object, until the runtime is closed.

    Results are pytrees of ``numpy.ndarray`` on the host, read-only; inputs are copied.
    """

    def __init__(
        self,
        *,
        policy: str | Policy = "missile",
        device: JaxDevice | None = None,
        quantum_ms: float | None = None,
        device_memory: int | str | None = None,
        host_memory: int | str | None = None,
        disk: str | os.PathLike[str] | None = None,
        tenants: Mapping[str, Tenant] | None = None,
        link_bytes_per_s: float | None = None,
        eviction: str | None = None,
        copy_observer: Callable[[CopyRecord], None] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        observer: Callable[[LaunchRecord], None] | None = None,
        arbiter: str | None = None,
        pin: bool = True,
    ) -> None:
        # Before JAX starts its threads, if this is the first use of it: each clings to a heap.
        keep_freed_memory()
        self._device = device if device is not None else jax.devices()[0]
        self._pinned = pin and pin_threads(self._device)
        quantum_ms = (
            _QUANTUM_MS.get(self._device.platform, 1.0) if quantum_ms is None else quantum_ms
        )
        if not 0 < quantum_ms < math.inf:
            raise ConfigError(f"quantum_ms={quantum_ms!r} must be a positive number")
        directory = cache_directory(cache_dir)
        persistent_cache(directory / "xla")
        self._costs = MeasuredCosts(self._device, directory / "costs")
        self._mux = Multiplexer(InlineDevice(), make_policy(policy), WallClock(), observer)
        aside = yielding(self._device) if self._mux.policy.yields else None
        self._mux.yields = aside is not None
        builder = Builder(self._device, self._costs, round(quantum_ms * 1e6))
        self._builders = {
            Priority.LATENCY: builder,
            Priority.BEST_EFFORT: dataclasses.replace(builder, device=aside or self._device),
        }
        shared = arbiter if arbiter is not None else os.environ.get("MISSILE_ARBITER")
        if shared:
            self._mux.sharing = Sharing(partial(_join, shared, self._mux.yields))
        self._memory = None
        if disk is not None and host_memory is None:
            raise ConfigError("disk= needs host_memory=, else nothing goes to disk")
        if device_memory is not None:
            self._memory = Memory(
                self._device,
                aside or self._device,
                size_bytes("device_memory", device_memory),
                host_bytes=None if host_memory is None else size_bytes("host_memory", host_memory),
                disk=None if disk is None else Path(disk),
                cache_dir=directory,
                link_bytes_per_s=link_bytes_per_s,
                tenants=tenants or {},
                eviction=eviction or "greedy_dual",
                observer=copy_observer,
                now_ns=self._mux.clock.now_ns,
                lock=self._mux.lock,
                arrived=self._arrived,
            )
            self._mux.memory = self._memory.residency
            self._mux.table.launch_limit = self._memory.temporary_bytes
            # A latency-sensitive request that has to bring its model begins while the rest arrives.
            self._builders[Priority.LATENCY] = dataclasses.replace(
                builder, copy_bytes_per_s=self._memory.hidden_bytes_per_s
            )
        elif any(
            x is not None for x in (host_memory, link_bytes_per_s, eviction, copy_observer)
        ) or any(tenant.shares_memory for tenant in (tenants or {}).values()):
            raise ConfigError(
                "host_memory=, link_bytes_per_s=, eviction= and copy_observer=, and a tenant's "
                "link_weight and memory_quota, need device_memory=, else parameters stay on the "
                "device"
            )
        self._mux.table.tenant_limits = {
            name: tenant.queue_limit
            for name, tenant in (tenants or {}).items()
            if tenant.queue_limit is not None
        }
        self._loading = threading.Lock()
        # Reentrant: a callback of a future may call `infer` while its thread drives.
        self._driving = threading.RLock()
        self._guard: threading.Thread | None = None

    def _arrived(self) -> None:
        if self._mux.device.autonomous:
            self._mux.step()

    # Models.

    def load(self, model: Model | str, /, *, replace: bool = False, **fields: Any) -> ModelInfo:
        """Compiles a model for every declared shape, runs it there, and serves it from then on.

        model: a `Model`, or its name with the other fields of `Model` as keywords.
        replace: take the place of the model of this name, if one is loaded. That one serves until
            the new one can, and finishes what runs. What waits goes over to the new one, or is
            finished by the old one where they differ in inputs, outputs, buckets or lengths.
            Counters go on. Where the new one cannot be loaded, the old one stays.

        Raises:
            ConfigError: a field has an impossible value.
            ModelExistsError: a model of this name is loaded, and it is not to be replaced.
            ArbiterError: the device is shared, and its arbiter cannot be reached or started.
            ModelLoadError: it could not be traced, compiled or run on its example; CheckpointError
                if its parameters could not be read.
            DeviceMemoryError: its parameters are larger than the device memory for them.
            HostMemoryError: there is no room for its parameters in host memory.
        """
        if isinstance(model, Model):
            if fields:
                raise ConfigError(f"load(Model(...)) takes no further fields, got {sorted(fields)}")
            spec = model
        else:
            try:
                spec = Model(model, **fields)
            except TypeError as error:
                raise ConfigError(f"load({model!r}): {error}") from None
        with self._loading:
            with self._mux.lock:
                self._mux.check_open()
                if not replace:
                    self._mux.table.check_free(spec.name)
            if self._mux.sharing is not None:
                self._mux.sharing.expect(spec.priority is Priority.LATENCY)
            builder = self._builders[Priority.of(spec.priority)]
            program = load(spec, builder, segment_all=self._memory is not None)
            self._costs.save()
            launch_bytes = 0 if self._memory is None else self._check_launches(program)
            program, parameters = self._place(spec, program)
            queue: RequestQueue[Request] = RequestQueue(spec.queue_limit)
            serve = self._mux.replace if replace else self._mux.add
            serve(Served(program, parameters, spec.weight, queue, launch_bytes))
            _leave_out_of_collections()
        return program.info

    def _check_launches(self, program: Program) -> int:
        """What a launch takes of device memory beside parameters, in bytes.

        Raises ModelLoadError if that is more than there is.
        """
        most = max(plan.launch_bytes for plan in program.plans.values())
        room = self._mux.table.launch_limit
        if room is not None and most > room:
            raise ModelLoadError(
                f"model {program.info.name!r}: a launch takes {most} bytes of memory for "
                f"temporaries and results, device_memory leaves {room} for that"
            )
        return most

    def _place(self, spec: Model, program: Program) -> tuple[Program, Parameters]:
        if self._memory is None:
            return program, Fixed(program.leaves)
        parameters = self._memory.place(program, pinned=spec.pinned)
        transfers = self._memory.transfers(program.info)
        return dataclasses.replace(program, leaves=(), transfers=transfers), parameters

    def evict(self, name: str) -> int:
        """Takes a model's parameters off the device; its next request brings them back.

        Returns the bytes given back: 0 if it is in use, or if device memory is not managed.

        Raises ModelNotFoundError.
        """
        with self._mux.lock:
            return self._mux.table[name].parameters.evict()

    def unload(self, name: str, *, drain: bool = False) -> None:
        """Takes a model out. Its name is free at once.

        drain: let it finish the requests it has; otherwise they fail with RuntimeClosedError.

        Raises ModelNotFoundError.
        """
        if drain:
            self._mux.retire(name)
        else:
            self._mux.remove(name)

    def models(self) -> list[str]:
        """Names of the loaded models."""
        with self._mux.lock:
            return [served.name for served in self._mux.table]

    def describe(self, name: str) -> ModelInfo:
        """What a model takes and gives. Raises ModelNotFoundError."""
        return self._program(name).info

    # Requests.

    def submit(
        self,
        name: str,
        inputs: PyTree,
        *,
        deadline_ms: float | None = None,
        priority: int | str | None = None,
    ) -> Future:
        """Queues one request and returns its future; the result is the model's output pytree.

        inputs: pytree like the model's example, leaves [B, ...], B at most the largest bucket.
        deadline_ms: from now on; when it has passed, the future fails with DeadlineExceededError. A
            model's `timeout_ms` holds where it is shorter.
        priority: its place among the requests that wait for this model: of two, the one of the
            smaller number goes first. 1 is the most urgent and the default, also as 0 or None;
            ``"best_effort"`` lets all others of a latency model go first. It never changes the
            model's class, so ``"latency"`` is for latency models only.

        The future can be cancelled until its result is there, also while the model runs. Its
        callbacks run on the runtime's threads: there, `infer` may wait for a further request, but
        waiting for a future that is not done may block what would make it so.

        Raises:
            ModelNotFoundError, InvalidInputError, UnsupportedShapeError, RuntimeClosedError,
            QueueFullError: at once; OverloadedError, a kind of the last, if the deadline could not
            be met behind what waits already. Later the future may raise DeadlineExceededError,
            ModelRaisedError, DeviceMemoryError, RuntimeClosedError or CancelledError; with a disk,
            also CheckpointError and HostMemoryError.
        """
        return self._send(name, lambda p: p.accept(inputs), deadline_ms, priority).future

    def submit_tensors(
        self,
        name: str,
        tensors: Mapping[str, np.ndarray],
        *,
        deadline_ms: float | None = None,
        priority: int | str | None = None,
        soon: Soon | None = None,
    ) -> Future[dict[str, np.ndarray]]:
        """`submit` for front ends: inputs and outputs by the names that `describe` lists.

        soon: has this thread call a function a little later, as an event loop's `call_soon` does.
            Short requests that the thread submits until then share a batch.
        """
        return self._send(
            name,
            lambda p: p.accept_named(tensors),
            deadline_ms,
            priority,
            named=True,
            soon=soon,
        ).future

    def infer(self, name: str, inputs: PyTree, *, deadline_ms: float | None = None) -> PyTree:
        """`submit`, and waits for the result. Raises what the future raises."""
        request = self._send(name, lambda p: p.accept(inputs), deadline_ms, None, waits=True)
        if not self._mux.device.autonomous:
            with self._driving:
                while not request.future.done() and self._mux.step():
                    pass
        return request.future.result()

    async def ainfer(
        self, name: str, inputs: PyTree, *, deadline_ms: float | None = None
    ) -> PyTree:
        """`infer` for asyncio; cancelling the task cancels the request.

        Raises RuntimeClosedError where the runtime has no threads: start it first.
        """
        if not self._mux.device.autonomous:
            raise RuntimeClosedError(
                "ainfer needs the runtime's own threads: use `with Runtime()` or call start()"
            )
        return await asyncio.wrap_future(self.submit(name, inputs, deadline_ms=deadline_ms))

    def _program(self, name: str) -> Program:
        self._mux.check_open()
        return self._mux.table[name].program

    def _send(
        self,
        name: str,
        accept: Callable[[Program], Inputs],
        deadline_ms: float | None,
        priority: int | str | None,
        *,
        named: bool = False,
        waits: bool = False,
        soon: Soon | None = None,
    ) -> Request:
        """Submits what `accept` makes of a request, `named` for a result by name.

        waits: the thread has nothing to do but wait for it. soon: see `submit_tensors`.
        """
        while True:
            program = self._program(name)
            level = 1 if priority is None else level_of(program.info, priority)
            finish = program.named_outputs if named else program.out_tree.unflatten
            inputs = accept(program)
            request = self._request(program, inputs, deadline_ms, level, finish)
            try:
                if waits:
                    self._mux.run(request)
                elif program.latency and _is_short(request.fit.plan):
                    self._run_here(program, request, soon)
                else:
                    self._mux.submit(request)
            except ReplacedError:
                continue
            return request

    def _run_here(
        self,
        program: Program,
        request: Request,
        soon: Soon | None,
    ) -> None:
        if soon is None or request.rows >= program.max_rows:
            self._mux.run(request)
        else:
            self._mux.queue(request)
            soon(lambda: self._mux.attend(request))

    def _request(
        self,
        program: Program,
        inputs: Inputs,
        deadline_ms: float | None,
        level: int,
        finish: Callable[[list[np.ndarray]], Any],
    ) -> Request:
        if deadline_ms is not None and not 0 < deadline_ms < math.inf:
            raise ConfigError(f"deadline_ms={deadline_ms!r} must be a positive number of ms")
        timeout_ms = program.info.timeout_ms
        if timeout_ms is not None and (deadline_ms is None or timeout_ms < deadline_ms):
            deadline_ms = timeout_ms
        now_ns = self._mux.clock.now_ns()
        deadline_ns = NEVER_NS if deadline_ms is None else now_ns + round(deadline_ms * 1e6)
        slo = program.info.slo
        due_ns = NEVER_NS if slo is None else now_ns + round(slo.deadline_ms * 1e6)
        leaves, fit = inputs
        request = Request(
            program,
            leaves,
            fit,
            now_ns,
            deadline_ns,
            min(due_ns, deadline_ns),
            finish,
            RequestFuture(lambda: self._mux.cancelled(request)),
            level,
        )
        return request

    # Driving.

    def step(self) -> bool:
        """Runs the next piece on this thread: decides, launches, completes.

        Returns False when there was nothing to do. Raises RuntimeClosedError if the runtime has
        threads of its own: they step.
        """
        if self._mux.device.autonomous:
            raise RuntimeClosedError("step() is for a runtime without threads; this one is started")
        with self._driving:
            return self._mux.step()

    def run_until_idle(self, timeout_s: float | None = None) -> bool:
        """Works, or waits for the runtime's threads, until no request is left.

        timeout_s: seconds after which it gives up; it never interrupts a piece.

        Returns whether the runtime is idle.
        """
        if self._mux.device.autonomous:
            return self._mux.wait_idle(timeout_s)
        end_ns = None if timeout_s is None else self._mux.clock.now_ns() + round(timeout_s * 1e9)
        with self._driving:
            while self._mux.step():
                if end_ns is not None and self._mux.clock.now_ns() >= end_ns:
                    break
        return self._mux.wait_idle(0)

    def start(self) -> Self:
        """Gives the runtime threads of its own. Requests submitted before start running."""
        with self._driving:
            self._mux.check_open()
            if not self._mux.device.autonomous:
                while self._mux.device.pump():
                    pass
                self._mux.device = LaneDevice()
                self._guard = threading.Thread(
                    target=self._guard_deadlines, name="missile-deadlines", daemon=True
                )
                self._guard.start()
                self._mux.step()
        return self

    def close(self, *, drain: bool = False, timeout_s: float | None = None) -> None:
        """Ends the runtime. May be called twice.

        drain: first wait for all requests, for at most `timeout_s` seconds. Requests that are left
            fail with RuntimeClosedError.
        """
        if drain:
            self.run_until_idle(timeout_s)
        self._mux.close()
        if self._memory is not None:
            self._memory.close()
        if self._guard is not None and self._guard is not threading.current_thread():
            self._guard.join()
        # For all runtimes of the process; one that goes on is only slower until its next load.
        gc.unfreeze()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _guard_deadlines(self) -> None:
        while self._mux.wait_for_deadline():
            pass

    # Figures.

    def stats(self) -> dict[str, Any]:
        """Counters, latencies and plans of all models, as plain values.

        ``mode`` is ``"spatial"`` if best-effort and latency-sensitive launches may overlap;
        ``yields`` tells whether best-effort runs on threads that yield, ``pinned`` whether each
        thread that computes has a processor of its own (docs/scheduling.md).
        ``accounts`` goes on counting models that were unloaded; ``now_ns`` is the engine's clock.
        Times end in their unit; ``latency_ms`` covers the latest 4,096 answers.
        """
        with self._mux.lock:
            latest = {s.name: list(s.stats.latest_ns) for s in self._mux.table}
            overlaps = self._mux.device.autonomous and self._mux.policy.overlaps
            memory = {} if self._memory is None else {"memory": self._memory.stats()}
            stats = memory | {
                "policy": self._mux.policy.name,
                "mode": "spatial" if overlaps else "temporal",
                "yields": self._mux.yields,
                "pinned": self._pinned,
                "device": f"{self._device.platform}:{self._device.id}",
                "simulated": self._mux.device.simulated,
                "now_ns": self._mux.clock.now_ns(),
                "models": {s.name: s.snapshot() for s in self._mux.table},
                "accounts": self._mux.table.accounts(),
            }
        for name, model in stats["models"].items():
            model["latency_ms"] = latency_percentiles(latest[name])
        return stats

    @contextlib.contextmanager
    def observed(
        self,
        observer: Callable[[LaunchRecord], None],
        copy_observer: Callable[[CopyRecord], None],
    ) -> Iterator[None]:
        """A context in which these are called too, as those given at construction are."""
        mux, memory = self._mux, self._memory
        with mux.lock:
            mux.observers += (observer,)
            if memory is not None:
                memory.observers += (copy_observer,)
        try:
            yield
        finally:
            with mux.lock:
                mux.observers = _without(mux.observers, observer)
                if memory is not None:
                    memory.observers = _without(memory.observers, copy_observer)


def _join(device: str, yields: bool, latency: bool) -> NativeTenant:
    name = f"runtime {os.getpid()}"
    return join(device, name, latency=latency, yields=yields and not latency)


def _without(observers: tuple[Any, ...], one: Any) -> tuple[Any, ...]:
    return tuple(observer for observer in observers if observer is not one)


def _is_short(plan: Plan) -> bool:
    return plan.steady and 0 < plan.whole.duration_ns < _NOT_WORTH_A_SWITCH_NS


def _leave_out_of_collections() -> None:
    gc.collect()
    gc.freeze()


def cache_directory(chosen: str | os.PathLike[str] | None = None) -> Path:
    """`chosen`, else ``$MISSILE_CACHE``, else ``~/.cache/missile_jax``."""
    return Path(chosen or os.environ.get("MISSILE_CACHE") or Path.home() / ".cache" / "missile_jax")
