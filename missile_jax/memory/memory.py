"""The memory of one device: host store, link, arena and residency put together."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from missile_jax._native import Block, Copy, Flow, staging_like
from missile_jax.errors import ConfigError, RuntimeClosedError
from missile_jax.memory.backing import open_backing
from missile_jax.memory.disk import Disk
from missile_jax.memory.eviction import EVICTION_ORDERS, Return, cost_of_return
from missile_jax.memory.host import Host
from missile_jax.memory.pages import huge_page_bytes
from missile_jax.memory.residence import Residence
from missile_jax.memory.residency import Cancel, FetchDone, Residency
from missile_jax.memory.store import HostModel, Store
from missile_jax.memory.views import array_maker
from missile_jax.program.plan import Plan
from missile_jax.program.program import Program, stage
from missile_jax.spec import JaxDevice, ModelInfo, Priority, Tenant

# Of device_memory; the rest is for what XLA allocates by itself: temporaries, inputs, outputs.
ARENA_SHARE = 0.75
# Inputs from here on are copied by the link; to wake its thread takes as long as to copy 64 KiB.
_OVER_THE_LINK_BYTES = 1 << 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CopyRecord:
    """A group of parameters that was copied to the device, for timelines. Times by the engine's
    clock."""

    model: str
    group: int
    size_bytes: int
    submitted_ns: int
    started_ns: int
    ended_ns: int


class Memory:
    """Models that come and go on a device of `device_bytes`.

    device_bytes: for the arena, and for what XLA allocates by itself.
    host_bytes: of parameters in host memory; None for no limit.
    disk: a folder for models that host memory has no room for; None for none.
    link_bytes_per_s: play a bus of this rate; None for as fast as it goes.
    tenants: what each gets of the link and the arena; those not named get a `Tenant`'s defaults.
    eviction: who leaves first: a name of `EVICTION_ORDERS`.
    observer: the first of `observers`, which are called with a CopyRecord after each copy, on the
        link's thread. What they raise is logged.
    now_ns, lock, arrived: see `Residency`.

    Raises ConfigError for a device that it can not manage, or sizes that can not be had.
    """

    def __init__(
        self,
        device: JaxDevice,
        best_effort_device: JaxDevice,
        device_bytes: int,
        *,
        host_bytes: int | None,
        disk: Path | None,
        cache_dir: Path,
        link_bytes_per_s: float | None,
        tenants: Mapping[str, Tenant],
        eviction: str,
        observer: Callable[[CopyRecord], None] | None,
        now_ns: Callable[[], int],
        lock: Any,
        arrived: Callable[[], None],
    ) -> None:
        if link_bytes_per_s is not None and not 0 < link_bytes_per_s < math.inf:
            raise ConfigError(f"link_bytes_per_s={link_bytes_per_s!r} must be a positive number")
        if eviction not in EVICTION_ORDERS:
            allowed = ", ".join(map(repr, EVICTION_ORDERS))
            raise ConfigError(f"eviction={eviction!r} is unknown; allowed: {allowed}")
        self.temporary_bytes = device_bytes - round(ARENA_SHARE * device_bytes)
        backing = open_backing(
            device, device_bytes - self.temporary_bytes, cache_dir, link_bytes_per_s
        )
        self._lock = lock
        self.observers: tuple[Callable[[CopyRecord], None], ...] = (
            () if observer is None else (observer,)
        )
        self._host_is_device = device.platform == "cpu"
        self.link_bytes_per_s = backing.bytes_per_s
        self.arena, self.link = backing.arena, backing.link
        # As it was made: to ask the kernel takes too long for `stats`.
        self._huge_page_bytes = (
            huge_page_bytes(self.arena.address, self.arena.size_bytes)
            if self._host_is_device
            else None
        )
        self.store = Store(backing.group_bytes, backing.alignment, backing.host_zeros)
        self.host = Host(host_bytes, None if disk is None else Disk(disk), lock)
        self._tenants = dict(tenants)
        quotas = {
            name: tenant.quota_bytes
            for name, tenant in tenants.items()
            if tenant.quota_bytes is not None
        }
        self.residency = Residency(
            self.arena,
            self._fetch,
            self.host,
            {True: array_maker(device), False: array_maker(best_effort_device)},
            now_ns,
            lock,
            arrived,
            quotas,
            EVICTION_ORDERS[eviction](),
        )
        self._flows: dict[tuple[str, bool], Flow] = {}

    def place(self, program: Program, *, pinned: bool) -> Residence:
        """Takes a loaded model over: its parameters lie on the host until they are wanted, or on
        disk.

        Raises HostMemoryError, DeviceMemoryError, RuntimeClosedError.
        """
        info = program.info
        plans = list(program.plans.values())
        host = self.store.put(info.name, program.leaves, order_of_use(plans))
        latency = info.priority is Priority.LATENCY
        cost = self._cost_of_return(host, plans[0])
        with self._lock:
            residence = self.residency.add(
                info.name,
                host,
                plans,
                latency=latency,
                tenant=info.tenant,
                cost=cost,
                pinned=pinned,
            )
            room = self.host.keep(host, self.residency.spillable(residence))
        try:
            error = room.result()
        except CancelledError:
            error = RuntimeClosedError("the runtime was closed")
        if error is not None:
            with self._lock:
                self.residency.remove(residence)
            raise error
        return residence

    def _cost_of_return(self, host: HostModel, plan: Plan) -> Return:
        return cost_of_return(
            [round(group.size_bytes / self.link_bytes_per_s * 1e9) for group in host.groups],
            [max((host.group_of[i] for i in s.params), default=-1) for s in plan.segments],
            [segment.duration_ns for segment in plan.segments],
        )

    def _flow(self, tenant: str, latency: bool) -> Flow:
        flow = self._flows.get((tenant, latency))
        if flow is None:
            weight = self._tenants.get(tenant, Tenant()).link_weight
            name = f"{tenant}/{'latency' if latency else 'best_effort'}"
            flow = self.link.flow(name, weight=weight, latency=latency)
            self._flows[tenant, latency] = flow
        return flow

    def copy_in(self, info: ModelInfo, array: np.ndarray) -> np.ndarray:
        """A copy of a request's input [B, ...] that XLA's CPU client takes as it is.

        A large one goes over the link, in the turns of the model's tenant and class: so uploads
        hold up nobody's parameters. The caller waits. Raises RuntimeClosedError.
        """
        if array.nbytes < _OVER_THE_LINK_BYTES or not self._host_is_device:
            return stage(array)
        staged = staging_like(array)
        try:
            with self._lock:
                flow = self._flow(info.tenant, info.priority is Priority.LATENCY)
            copy = flow.copy(_place(staged), 0, _place(array), 0, array.nbytes)
        except RuntimeError as error:
            raise RuntimeClosedError(f"model {info.name!r}: {error}") from None
        copy.wait()
        if copy.error is not None:
            raise RuntimeClosedError(f"model {info.name!r}: {copy.error}")
        return staged

    def _fetch(self, model: Residence, k: int, block: Block, done: FetchDone) -> Cancel:
        assert model.host.data is not None
        data = model.host.data[k]

        def copied(copy: Copy) -> None:
            if copy.error is None:
                for observer in self.observers:
                    _observe(observer, model.name, k, copy)
            done(copy.error)

        flow = self._flow(model.tenant, model.latency)
        return flow.copy((block.address, block), 0, data, 0, data.nbytes, copied).cancel

    def stats(self) -> dict[str, Any]:
        """Of the arena, the link by tenant, the host, and the disk.

        `huge_page_bytes` of the arena: how much the kernel gave in huge pages when it was made;
        None where that is not known, and on a GPU.
        """
        stats = self.residency.stats()
        stats["arena"] |= {"huge_page_bytes": self._huge_page_bytes}
        return stats | {"link": self.link.stats()} | self.host.stats()

    def close(self) -> None:
        """Takes all models off the device and ends the disk and the link. May be called twice."""
        self.residency.close()
        self.host.close()
        self.link.close()


def _place(array: np.ndarray) -> tuple[int, np.ndarray]:
    # Not the buffer protocol: numpy has none for bfloat16.
    return array.ctypes.data, array


def _observe(observer: Callable[[CopyRecord], None], model: str, k: int, copy: Copy) -> None:
    times = (copy.submitted_ns, copy.started_ns, copy.ended_ns)
    try:
        observer(CopyRecord(model, k, copy.size_bytes, *times))
    except Exception:  # noqa: BLE001 - an observer is the user's
        _log.exception("the copy observer failed")


def order_of_use(plans: Sequence[Plan]) -> list[int]:
    """Parameter leaves as the first plan comes to them; then what only others use."""
    order: dict[int, None] = {}
    for plan in plans:
        for segment in (*plan.segments, plan.whole):
            order.update(dict.fromkeys(segment.params))
    return list(order)
