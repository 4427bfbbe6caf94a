"""The models that are served, what waits of each, and who had how much of the device."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from missile_jax.engine.job import Job, Piece
from missile_jax.engine.request import Request
from missile_jax.engine.stats import ModelStats
from missile_jax.errors import ModelExistsError, ModelNotFoundError
from missile_jax.memory.parameters import Parameters
from missile_jax.program.program import Program
from missile_jax.schedule.admission import TenantQueue
from missile_jax.schedule.queue import RequestQueue
from missile_jax.schedule.shares import ClassShare, FairShare
from missile_jax.schedule.slo import Attainment, Standing, Urgency
from missile_jax.schedule.view import ModelView, View
from missile_jax.spec import Priority

# Long before any arrival: no latency-sensitive request was seen yet.
_LONG_AGO_NS = -(2**62)
# Jobs that the usual time is a mean of, about.
_LATELY = 8
# Nobody waits: a job between two segments goes on before others start.
_UNDER_WAY = Urgency(Standing.OVERDUE, 0)


class Account(NamedTuple):
    """Whom counters belong to."""

    model: str
    tenant: str
    priority: str


@dataclass(slots=True, eq=False)
class Served:
    """A version of a model.

    weight: share of device time among best-effort models. slo_ns: None without an objective.
    attainment: how it has kept to that lately; None without one.
    paused: jobs between two segments. in_flight: pieces on the device.
    key: what policies know it by: the model's name, until it is retired.
    usual_ns: device time of its jobs lately.
    launch_bytes: the most that XLA allocates for a launch; 0 where that is not counted.
    retired: it takes no more requests, and finishes those it has.
    moves: whether its parameters come to the device and go.
    """

    program: Program
    parameters: Parameters
    weight: float
    queue: RequestQueue[Request]
    launch_bytes: int = 0
    paused: deque[Job] = field(default_factory=deque)
    in_flight: int = 0
    stats: ModelStats = field(default_factory=ModelStats)
    retired: bool = False
    name: str = field(init=False)
    key: str = field(init=False)
    latency: bool = field(init=False)
    moves: bool = field(init=False)
    usual_ns: int = field(init=False, default=0)
    slo_ns: int | None = field(init=False)
    attainment: Attainment | None = field(init=False)

    def __post_init__(self) -> None:
        info = self.program.info
        self.name = self.key = info.name
        self.latency = info.priority is Priority.LATENCY
        self.moves = self.parameters.moves
        self.slo_ns = self.attainment = None
        if info.slo is not None:
            self.slo_ns = round(info.slo.deadline_ms * 1e6)
            self.attainment = Attainment(info.slo)

    @property
    def idle(self) -> bool:
        return not (self.in_flight or self.paused or self.queue)

    def took(self, job: Job) -> None:
        """`job` is done."""
        lately = self.usual_ns or job.compute_ns
        self.usual_ns = lately + (job.compute_ns - lately) // _LATELY

    def view(self, vruntime_ns: float, room: bool) -> ModelView:
        """room: whether there is memory for a launch of it."""
        first = head = self.queue.head()
        piece_ns = 0 if head is None else head.fit.plan.least_ns
        ready = room and self.parameters.can_start
        if self.paused:
            job = self.paused[0]
            first, piece_ns = job.requests[0], job.next_segment.duration_ns
            ready = room and self.parameters.ready(job.next_segment)
        return ModelView(
            self.key,
            self.latency,
            len(self.queue),
            len(self.paused),
            self.in_flight,
            0 if first is None else first.arrival_ns,
            self._urgency(head),
            vruntime_ns,
            piece_ns,
            ready,
        )

    def _urgency(self, head: Request | None) -> Urgency:
        if head is None:
            return _UNDER_WAY
        standing = self.queue.standing
        if standing is Standing.IN_TIME and self.attainment is not None and self.attainment.short:
            standing = Standing.SHORT
        return Urgency(standing, head.due_ns)

    def snapshot(self) -> dict[str, Any]:
        """Its counters and plans as plain values."""
        info = self.program.info
        values = self.stats.snapshot()
        values |= {
            "priority": info.priority.value,
            "tenant": info.tenant,
            "weight": self.weight,
            "queue_depth": len(self.queue),
            "in_flight": self.in_flight,
            "parameter_bytes": info.parameter_bytes,
            "residency": self.parameters.stats(),
            "plans": [
                {"rows": rows, "length": length or None, **plan.snapshot()}
                for (rows, length), plan in self.program.plans.items()
            ],
        }
        if self.slo_ns is not None and self.attainment is not None:
            values["slo_ms"] = self.slo_ns / 1e6
            values["slo_attainment"] = self.stats.within_slo_count / max(
                self.stats.success_count, 1
            )
            values["slo_required"] = self.attainment.required
        return values

    def tell_memory(self) -> None:
        """What the memory decides by: whether it has work, and how urgent."""
        head = self.queue.head()
        self.parameters.update(
            head is not None,
            bool(self.in_flight or self.paused),
            self._urgency(head),
        )


class Table:
    """All models, and the accounts that policies decide by. Not locked: the engine's lock is.

    tenant_limits: requests that may wait of a tenant's models together, for those that have one.
    launch_limit: bytes that XLA may allocate for all launches in flight; None for no limit.
    """

    def __init__(self) -> None:
        self.tenant_limits: Mapping[str, int] = {}
        self.launch_limit: int | None = None
        self._launch_bytes = 0
        self._models: dict[str, Served] = {}
        self._retired: list[Served] = []
        self._retired_keys = itertools.count()
        self._accounts: dict[Account, ModelStats] = {}
        self._active: dict[str, Served] = {}
        self._fair = FairShare()
        self._classes = ClassShare()
        self._latency_pieces_ns: list[int] = []
        self._best_effort_in_flight = 0
        self._last_latency_ns = _LONG_AGO_NS

    def __iter__(self) -> Iterator[Served]:
        """The models that take requests."""
        return iter(self._models.values())

    def __getitem__(self, name: str) -> Served:
        """Raises ModelNotFoundError."""
        try:
            return self._models[name]
        except KeyError:
            loaded = ", ".join(sorted(self._models)) or "none"
            raise ModelNotFoundError(f"no model named {name!r}; loaded: {loaded}") from None

    def launchable(self, key: str) -> Served:
        """The version that a policy means. Raises ModelNotFoundError."""
        return self._active.get(key) or self[key]

    def versions(self, name: str) -> list[Served]:
        """Those of a model that have requests: the one that takes them, and retired ones."""
        current = self._models.get(name)
        retired = [served for served in self._retired if served.name == name]
        return retired if current is None else [current, *retired]

    def everyone(self) -> list[Served]:
        """All versions of all models."""
        return [*self._models.values(), *self._retired]

    def tenant_queue(self, tenant: str) -> TenantQueue | None:
        """What waits of a tenant that has a limit; None for any other."""
        limit = self.tenant_limits.get(tenant)
        if limit is None:
            return None
        own = (s for s in self._active.values() if s.program.info.tenant == tenant)
        return TenantQueue(tenant, sum(len(served.queue) for served in own), limit)

    @property
    def idle(self) -> bool:
        """Whether no model has anything waiting or running."""
        return not (self._active or self._latency_pieces_ns or self._best_effort_in_flight)

    @property
    def waiting(self) -> bool:
        """Whether any model has something queued, paused or in flight."""
        return bool(self._active)

    def check_free(self, name: str) -> None:
        """Raises ModelExistsError."""
        if name in self._models:
            raise ModelExistsError(f"a model named {name!r} is loaded; unload it first")

    def add(self, served: Served) -> None:
        """Its counters go on where those of an earlier model of its account ended.

        Raises ModelExistsError.
        """
        self.check_free(served.name)
        info = served.program.info
        account = Account(served.name, info.tenant, info.priority.value)
        served.stats = self._accounts.setdefault(account, served.stats)
        self._models[served.name] = served

    def replace(self, served: Served) -> None:
        """Takes `served` in the place of the model of its name, if there is one.

        What waits there goes over to it, unless it takes other inputs.
        """
        old = self._models.get(served.name)
        if old is None:
            self.add(served)
            return
        moving = old.queue.clear() if served.program.takes_the_same_as(old.program) else []
        self.retire(old)
        self.add(served)
        for request in moving:
            self.arrived(served, request)

    def retire(self, served: Served) -> None:
        """Takes its name from a model; it goes once it has finished the requests it has."""
        del self._models[served.name]
        active = self._active.pop(served.key, None)
        key = f"{served.name}#{next(self._retired_keys)}"
        self._fair.rename(served.key, key)
        served.key, served.retired = key, True
        self._retired.append(served)
        if active is not None:
            self._active[key] = served
        self.settle(served)

    def remove(self, name: str) -> list[Served]:
        """All versions of a model. Raises ModelNotFoundError."""
        self[name]
        versions = self.versions(name)
        del self._models[name]
        for served in versions:
            self._forget(served)
        return versions

    def _forget(self, served: Served) -> None:
        self._active.pop(served.key, None)
        self._fair.forget(served.key)
        if served.retired:
            self._retired.remove(served)
            served.retired = False
        if not served.in_flight:
            served.parameters.discard()

    def has(self, served: Served) -> bool:
        """Whether this very version is loaded or retired, and not a later one of its name."""
        return served.retired or self._models.get(served.name) is served

    def accounts(self) -> list[dict[str, Any]]:
        """The counters of every model that is or was loaded, as plain values."""
        return [
            account._asdict() | {"loaded": self._holds(account)} | stats.snapshot()
            for account, stats in self._accounts.items()
        ]

    def _holds(self, account: Account) -> bool:
        served = self._models.get(account.model)
        return served is not None and served.stats is self._accounts[account]

    def has_room(self, served: Served) -> bool:
        """Whether XLA has memory for a launch of `served` beside those in flight."""
        if self.launch_limit is None or not self._launch_bytes:
            return True  # by itself any model's fits, or it would not have been loaded
        return self._launch_bytes + served.launch_bytes <= self.launch_limit

    def judge(self, now_ns: int) -> None:
        """Finds out who can still be in time, for the next view."""
        for served in self._active.values():
            if served.latency and served.queue.judge(now_ns, served.usual_ns) and served.moves:
                served.tell_memory()

    def view(self, now_ns: int, yields: bool) -> View:
        vruntime_ns = self._fair.vruntime_ns
        return View(
            now_ns,
            tuple(
                s.view(0.0 if s.latency else vruntime_ns(s.key), self.has_room(s))
                for s in self._active.values()
            ),
            tuple(self._latency_pieces_ns),
            self._best_effort_in_flight,
            self._last_latency_ns,
            self._classes.best_effort(),
            yields,
        )

    def arrived(self, served: Served, request: Request) -> None:
        served.queue.push(request)
        self._active[served.key] = served
        if served.moves:
            served.tell_memory()
        if served.latency:
            self._last_latency_ns = max(self._last_latency_ns, request.arrival_ns)
        else:
            self._fair.wake(served.key)

    def launched(self, served: Served, piece: Piece) -> None:
        served.in_flight += 1
        self._launch_bytes += served.launch_bytes
        if served.moves:
            served.tell_memory()
        if served.latency:
            self._latency_pieces_ns.append(piece.segment.duration_ns)
        else:
            self._best_effort_in_flight += 1

    def ended(self, served: Served, piece: Piece, now_ns: int) -> None:
        """Charges the time since `piece` was launched."""
        duration_ns = now_ns - piece.started_ns
        piece.job.compute_ns += duration_ns
        piece.job.ended_ns = now_ns
        served.in_flight -= 1
        self._launch_bytes -= served.launch_bytes
        served.stats.launch_count += 1
        served.stats.device_ns += duration_ns
        self._classes.charge(served.latency, duration_ns)
        if not (served.in_flight or self.has(served)):
            served.parameters.discard()
        if served.latency:
            self._latency_pieces_ns.remove(piece.segment.duration_ns)
            self._last_latency_ns = now_ns
        else:
            self._best_effort_in_flight -= 1
            if self.has(served):
                self._fair.charge(served.key, duration_ns, served.weight)

    def settle(self, served: Served) -> None:
        """Drops jobs that nobody waits for; a model with nothing left leaves the view."""
        if served.paused and not all(job.wanted for job in served.paused):
            served.paused = deque(job for job in served.paused if job.wanted)
        if served.idle:
            if self._active.get(served.key) is served:
                del self._active[served.key]
                if not served.latency:
                    self._fair.sleep(served.key)
            if served.retired:
                self._forget(served)
        if served.moves and self.has(served):
            served.tell_memory()
