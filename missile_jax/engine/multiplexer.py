"""The engine: decides what to launch, launches it, completes it."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from jax.errors import JaxRuntimeError

from missile_jax.engine.clock import Clock
from missile_jax.engine.deadlines import Deadlines
from missile_jax.engine.device import Device
from missile_jax.engine.job import Job, Piece
from missile_jax.engine.request import NEVER_NS, Phases, Request
from missile_jax.engine.sharing import Sharing
from missile_jax.engine.table import Served, Table
from missile_jax.errors import (
    DeadlineExceededError,
    DeviceMemoryError,
    MissileError,
    ModelRaisedError,
    OverloadedError,
    RuntimeClosedError,
    one_line,
)
from missile_jax.memory.residency import Residency
from missile_jax.schedule.admission import refusal
from missile_jax.schedule.view import Launch, Policy

_LONGEST_SLEEP_S = 3600.0
# A block becomes free when the last view of it is dropped, wherever that happens: nobody is told.
_POLL_S = 0.001

_log = logging.getLogger(__name__)


class ReplacedError(Exception):
    """The model that accepted a request was replaced by one with other inputs or outputs."""


# A request with what its future is to be set to: an answer or an error.
Outcome = tuple[Request, Any, BaseException | None]


@dataclass(frozen=True, slots=True)
class LaunchRecord:
    """A piece that has run, for timelines and replays.

    index: segment; -1 for a whole plan. arrival_ns: of the first request of its batch.
    """

    model: str
    latency: bool
    index: int
    rows: int
    started_ns: int
    ended_ns: int
    arrival_ns: int = 0


class Multiplexer:
    """Shares one device among models, as a policy says.

    `submit` queues a request; `step` asks the policy and launches pieces; the device reports each
    piece to `_finished`, which goes on with the job or answers its requests, and launches again.
    All state is behind one lock. Futures are set outside of it, since that runs users' callbacks.

    observers: called with a LaunchRecord after each piece, under the lock: they must be quick. What
        they raise is logged.
    yields: whether best-effort pieces run on threads that yield, so that others run beside them
        undisturbed; what a user's own loop drives runs one at a time.
    """

    def __init__(
        self,
        device: Device,
        policy: Policy,
        clock: Clock,
        observer: Callable[[LaunchRecord], None] | None = None,
    ) -> None:
        self.device = device
        self.policy = policy
        self.clock = clock
        self.observers: tuple[Callable[[LaunchRecord], None], ...] = (
            () if observer is None else (observer,)
        )
        self.memory: Residency | None = None
        self.sharing: Sharing | None = None
        self.yields = False
        self.table = Table()
        self.lock = threading.RLock()
        self._idle = threading.Condition(self.lock)
        self._sooner = threading.Condition(self.lock)
        self._deadlines = Deadlines()
        self._answering: list[int] = []
        self._waiters = 0
        self._closed: MissileError | None = None

    def submit(self, request: Request) -> None:
        """Queues `request`.

        Raises ModelNotFoundError, QueueFullError, RuntimeClosedError, and ReplacedError if it has
        to be accepted anew.
        """
        outcomes: list[Outcome] = []
        with self.lock:
            self.queue(request)
            if self.device.autonomous:
                self._launch(outcomes)
        _resolve(outcomes)

    def queue(self, request: Request) -> None:
        """`submit` that launches nothing: the caller is to `attend` to the request soon."""
        with self.lock:
            self.check_open()
            served = self.table[request.model]
            if request.program is not served.program:
                _check_still_fits(request, served)
            if served.queue or self.table.tenant_limits:
                self._admit(served, request)
            self.table.arrived(served, request)
            # One whose parameters have to come may wait for best effort of this process to leave.
            if self.sharing is not None and self._is_told_early(served):
                request.announced = True
                self.sharing.announce(request.future)
            if request.deadline_ns != NEVER_NS and self._deadlines.add(request):
                self._sooner.notify()

    def _is_told_early(self, served: Served) -> bool:
        """Whether other processes are told of a request when it arrives, not when it is launched.

        Not where it waits for best effort of this process, which waits for other processes: these
        must not wait for it.
        """
        at_once = self.device.autonomous and self.policy.overlaps
        return at_once and served.latency and served.parameters.can_start

    def attend(self, request: Request) -> None:
        """Launches what is next, and runs it on this thread if it is the job of `request`."""
        if not request.future.done():
            self.device.attend(request, lambda _: self.step())

    def _admit(self, served: Served, request: Request) -> None:
        tenant = self.table.tenant_queue(served.program.info.tenant)
        abreast = self.policy.abreast(served.latency)
        why = refusal(served.name, served.queue, request, tenant, abreast)
        if why is None:
            return
        if isinstance(why, OverloadedError):
            served.stats.overload_count += 1
        else:
            served.stats.reject_count += 1
        raise why

    def run(self, request: Request) -> None:
        """`submit` for a thread that will wait: it may run the request's pieces itself."""
        self.device.attend(request, self.submit)

    def step(self) -> bool:
        """Decides, launches, and completes if the device does not do so by itself.

        Returns whether anything was launched or completed.
        """
        outcomes: list[Outcome] = []
        with self.lock:
            self._expire(outcomes)
            launched = self._launch(outcomes)
        _resolve(outcomes)
        if self.device.autonomous:
            return launched
        return self.device.pump() or launched or self._await_memory()

    def _await_memory(self) -> bool:
        """For a loop of the user's: what can not run yet may be on its way to the device."""
        if self.memory is None:
            return False
        outcomes: list[Outcome] = []
        with self.lock:
            # What arrived after the last look is launched by another one: nothing comes any more.
            done = self.memory.wait(_POLL_S) or self._launch(outcomes)
        _resolve(outcomes)
        return done

    def _launch(self, outcomes: list[Outcome]) -> bool:
        if self._closed or not self.table.waiting:
            return False
        if self.memory is not None and self.memory.blocked:
            self.memory.retry()
            if self.memory.may_unblock_itself:
                self._sooner.notify()
        now_ns, launched = self.clock.now_ns(), False
        self.table.judge(now_ns)
        yields = self.yields and self.device.autonomous
        try:
            more = True
            while more:
                more = False
                for launch in self.policy.decide(self.table.view(now_ns, yields)):
                    served = self.table.launchable(launch.model)
                    if not self.table.has_room(served):
                        continue  # one before it has taken the memory: it is asked about again
                    piece = self._piece(served, launch, now_ns)
                    launched = True
                    self._put(served, piece, now_ns, outcomes)
                    # There may be room for another of its jobs.
                    more |= bool(served.queue)
        except Exception as error:  # noqa: BLE001 - a policy may be the user's
            self._closed = RuntimeClosedError(f"policy {self.policy.name!r} failed: {error!r}")
            self._closed.__cause__ = error
            self._drop_all(self._closed, outcomes)
        return launched

    def _put(self, served: Served, piece: Piece, now_ns: int, outcomes: list[Outcome]) -> None:
        try:
            self.device.launch(piece, partial(self._finished, served))
        except Exception as error:  # noqa: BLE001 - such as no further thread to be had
            self.table.ended(served, piece, now_ns)
            failed = _model_error(served.name, error)
            _fail(served, piece.job.requests, failed, now_ns, outcomes)
            self.table.settle(served)

    def _piece(self, served: Served, launch: Launch, now_ns: int) -> Piece:
        if served.paused:
            job = served.paused.popleft()
        else:
            batch = served.queue.take_batch(served.program.max_rows)
            if not batch:
                raise ValueError(f"it launched {launch.model!r}, which has no work")
            for request in batch:
                request.started_ns = now_ns
            job = Job(served.program, served.parameters, batch)
        piece = job.piece(launch.whole and served.parameters.complete)
        piece.started_ns = now_ns
        if self.sharing is not None and not (
            served.latency and all(request.announced for request in job.requests)
        ):
            piece.sharing = self.sharing
        if served.moves:
            _count_swap(served, piece)
        if not piece.job.ended_ns:
            for request in job.requests:
                request.queue_ns = now_ns - request.arrival_ns - request.swap_ns
        self.table.launched(served, piece)
        return piece

    def _finished(self, served: Served, piece: Piece, error: BaseException | None) -> None:
        """`piece` has run: goes on with its job or answers its requests, then launches again."""
        job = piece.job
        outcomes: list[Outcome] = []
        me = threading.get_ident()
        with self.lock:
            self._answering.append(me)
            now_ns = self.clock.now_ns()
            self._expire(outcomes)
            self.table.ended(served, piece, now_ns)
            for observer in self.observers:
                _observe(observer, served, piece, now_ns)
            job.advance(piece)
            if error is not None:
                _fail(served, job.requests, _model_error(served.name, error), now_ns, outcomes)
            elif job.done:
                _count(served, job, now_ns)
            elif self._closed or not self.table.has(served):
                why = self._closed or _unloaded(served.name)
                _fail(served, job.requests, why, now_ns, outcomes)
            else:
                served.paused.append(job)
            self.table.settle(served)
            if self.device.autonomous:
                self._launch(outcomes)
        if error is None and job.done:
            self._answer(job, outcomes)
        _resolve(outcomes)
        self._answering.remove(me)
        # One who comes to wait after this look finds the engine idle by himself.
        if self._waiters:
            with self.lock:
                self._idle.notify_all()

    def _answer(self, job: Job, outcomes: list[Outcome]) -> None:
        try:
            answers = self.device.answers(job)
        except Exception as error:  # noqa: BLE001 - fetching results may fail like running does
            failed = _model_error(job.requests[0].model, error)
            outcomes += [(request, None, failed) for request in job.requests]
            return
        for request, answer in zip(job.requests, answers, strict=True):
            outcomes.append((request, answer, None))

    # Every other way out.

    def cancelled(self, request: Request) -> None:
        """The future of `request` was cancelled: drops it from its queue or its job."""
        with self.lock:
            if request.settled:
                return
            for served in self._abandon(request):
                served.stats.cancel_count += 1
            self._idle.notify_all()

    def _abandon(self, request: Request) -> list[Served]:
        """Nobody waits for `request` any more. Returns where to count that, if anywhere."""
        request.settled = True
        # Its future may keep it for long.
        request.inputs = ()
        versions = self.table.versions(request.model)
        for served in versions:
            served.queue.remove(request)
            self.table.settle(served)
        return versions[:1]

    def _expire(self, outcomes: list[Outcome]) -> None:
        if not self._deadlines:
            return
        for request in self._deadlines.late(self.clock.now_ns()):
            for served in self._abandon(request):
                served.stats.expire_count += 1
                if served.attainment is not None:
                    served.attainment.note(math.inf)
            outcomes.append((request, None, _late(request)))

    def wait_for_deadline(self) -> bool:
        """Sleeps until a deadline passes or the engine is closed, then expires what is late.

        Returns False once closed: the body of the loop of a thread that guards deadlines.
        """
        outcomes: list[Outcome] = []
        with self.lock:
            if not self._closed:
                polls = self.memory is not None and self.memory.may_unblock_itself
                longest_s = _POLL_S if polls else _LONGEST_SLEEP_S
                left_s = (self._deadlines.next_ns - self.clock.now_ns()) / 1e9
                sleep_s = min(left_s, longest_s)
                if sleep_s > 0:
                    self._sooner.wait(sleep_s)
            self._expire(outcomes)
            self._launch(outcomes)
            self._idle.notify_all()
            going_on = self._closed is None
        _resolve(outcomes)
        return going_on

    def wait_idle(self, timeout_s: float | None) -> bool:
        """Blocks until nothing waits or runs. False if that took longer than `timeout_s`."""
        with self.lock:
            self._waiters += 1
            try:
                return self._idle.wait_for(self._is_idle, timeout_s)
            finally:
                self._waiters -= 1

    def _is_idle(self) -> bool:
        # Answers are on their way after the device has ended; a callback must not wait for its own.
        me = threading.get_ident()
        return self.table.idle and all(thread == me for thread in tuple(self._answering))

    def add(self, served: Served) -> None:
        """Serves a model. Raises ModelExistsError, RuntimeClosedError."""
        with self.lock:
            self.check_open()
            self.table.add(served)

    def replace(self, served: Served) -> None:
        """Serves a model from now on in place of the one of its name, which finishes what it has.

        Raises RuntimeClosedError.
        """
        outcomes: list[Outcome] = []
        with self.lock:
            self.check_open()
            self.table.replace(served)
            if self.device.autonomous:
                self._launch(outcomes)
        _resolve(outcomes)

    def retire(self, name: str) -> None:
        """Takes a model out that finishes what it has. Raises ModelNotFoundError."""
        with self.lock:
            self.table.retire(self.table[name])

    def remove(self, name: str) -> None:
        """Takes a model out: what waits fails, what runs stops at the next segment."""
        outcomes: list[Outcome] = []
        with self.lock:
            for served in self.table.remove(name):
                self._drop_waiting(served, _unloaded(name), outcomes)
            self._idle.notify_all()
        _resolve(outcomes)

    def close(self) -> None:
        """Fails what waits, lets what is on the device end, and ends the device."""
        outcomes: list[Outcome] = []
        with self.lock:
            self._closed = self._closed or RuntimeClosedError("the runtime was closed")
            self._drop_all(self._closed, outcomes)
            self._sooner.notify_all()
            self._idle.notify_all()
        if self.sharing is not None:
            self.sharing.close()
        _resolve(outcomes)
        while self.device.pump():
            pass
        self.device.close()

    def check_open(self) -> None:
        """Raises RuntimeClosedError after `close`."""
        if self._closed:
            raise RuntimeClosedError(str(self._closed)) from self._closed.__cause__

    def _drop_all(self, error: MissileError, outcomes: list[Outcome]) -> None:
        for served in self.table.everyone():
            self._drop_waiting(served, error, outcomes)

    def _drop_waiting(self, served: Served, error: MissileError, outcomes: list[Outcome]) -> None:
        now_ns = self.clock.now_ns()
        for job in served.paused:
            _fail(served, job.requests, error, now_ns, outcomes)
        served.paused.clear()
        _fail(served, served.queue.clear(), error, now_ns, outcomes)
        self.table.settle(served)


def _check_still_fits(request: Request, served: Served) -> None:
    if not served.program.takes_the_same_as(request.program):
        raise ReplacedError


def _observe(
    observer: Callable[[LaunchRecord], None], served: Served, piece: Piece, now_ns: int
) -> None:
    job, times = piece.job, (piece.started_ns, now_ns, piece.job.requests[0].arrival_ns)
    try:
        observer(LaunchRecord(served.name, served.latency, piece.index, job.rows, *times))
    except Exception:  # noqa: BLE001 - an observer is the user's
        _log.exception("the observer failed")


def _count_swap(served: Served, piece: Piece) -> None:
    """Charges the requests of `piece` for the time in which only its parameters were missing."""
    for request in piece.job.requests:
        since_ns = max(request.arrival_ns, piece.job.ended_ns)
        request.swap_ns += served.parameters.awaited_ns(piece.segment, since_ns)


def _count(served: Served, job: Job, now_ns: int) -> None:
    served.took(job)
    served.stats.executed(job.rows, job.compute_ns)
    for request in job.requests:
        if not request.settled:
            request.settled = True
            waited = (request.arrival_ns, request.queue_ns, request.swap_ns)
            phases = request.future.phases = Phases(*waited, job.compute_ns, now_ns)
            fit = request.fit
            if served.attainment is not None:
                served.attainment.note(now_ns - request.arrival_ns)
            served.stats.succeeded(phases, served.slo_ns, fit.input_bytes, fit.output_bytes)


def _fail(
    served: Served,
    requests: Iterable[Request],
    error: MissileError,
    now_ns: int,
    outcomes: list[Outcome],
) -> None:
    for request in requests:
        if not request.settled:
            request.settled = True
            served.stats.failed(now_ns - request.arrival_ns)
            outcomes.append((request, None, error))


def _resolve(outcomes: list[Outcome]) -> None:
    """Sets futures; one that was cancelled or is late keeps what it has."""
    for request, answer, error in outcomes:
        request.inputs = ()
        request.future.resolve(answer, error)


def _unloaded(name: str) -> MissileError:
    return RuntimeClosedError(f"model {name!r} was unloaded before the request was done")


def _late(request: Request) -> MissileError:
    allowed_ms = (request.deadline_ns - request.arrival_ns) / 1e6
    state = "while it ran" if request.started_ns else "while it waited"
    return DeadlineExceededError(
        f"model {request.model!r}: the deadline of {allowed_ms:.1f} ms passed {state}"
    )


def _model_error(name: str, error: BaseException) -> MissileError:
    if isinstance(error, MissileError):
        return error  # The memory's, which says all.
    said = one_line(error)
    # The CPU client raises a ValueError where others raise a JaxRuntimeError.
    exhausted = isinstance(error, JaxRuntimeError | ValueError) and "RESOURCE_EXHAUSTED" in said
    memory = exhausted or isinstance(error, MemoryError)
    kind = DeviceMemoryError if memory else ModelRaisedError
    failed = kind(f"model {name!r} failed while it ran: {said}")
    failed.__cause__ = error
    return failed
