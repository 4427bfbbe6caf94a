"""The memory of one device: host store, link, arena and residency put together."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from missile_jax._native import Block, Copy
from missile_jax.errors import ConfigError, RuntimeClosedError
from missile_jax.memory.backing import open_backing
from missile_jax.memory.disk import Disk
from missile_jax.memory.eviction import EVICTION_ORDERS, Return, cost_of_return
from missile_jax.memory.flows import Flows
from missile_jax.memory.host import Host
from missile_jax.memory.pages import huge_page_bytes
from missile_jax.memory.residence import Residence
from missile_jax.memory.residency import Cancel, FetchDone, Residency
from missile_jax.memory.store import HostModel, Store
from missile_jax.memory.transfers import CudaTransfers, LinkTransfers
from missile_jax.memory.views import array_maker
from missile_jax.program.build import SEGMENT_NS
from missile_jax.program.plan import Plan
from missile_jax.program.program import Program
from missile_jax.program.transfers import Transfers
from missile_jax.spec import JaxDevice, ModelInfo, Priority, Tenant

# Of device_memory; the rest is for what XLA allocates by itself: temporaries, inputs, outputs.
ARENA_SHARE = 0.75
# On a GPU, for large inputs; as much of the host's memory is pinned for inputs and results.
_ROOM_SHARE = 1 / 16
_MOST_ROOM_BYTES = 256 << 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CopyRecord:
    """Groups of parameters that one copy brought to the device, for timelines. Times by the
    engine's clock.

    group: the first of them. groups: how many.
    """

    model: str
    group: int
    size_bytes: int
    submitted_ns: int
    started_ns: int
    ended_ns: int
    groups: int = 1


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
        self._host_is_device = device.platform == "cpu"
        arena_bytes = round(ARENA_SHARE * device_bytes)
        room_bytes = min(round(_ROOM_SHARE * device_bytes), _MOST_ROOM_BYTES)
        if self._host_is_device:
            room_bytes = 0
        self.temporary_bytes = device_bytes - arena_bytes - room_bytes
        backing = open_backing(device, arena_bytes, room_bytes, cache_dir, link_bytes_per_s)
        self._lock = lock
        self.observers: tuple[Callable[[CopyRecord], None], ...] = (
            () if observer is None else (observer,)
        )
        self.link_bytes_per_s = backing.bytes_per_s
        self._processor_share = backing.processor_share
        self.arena, self.link = backing.arena, backing.link
        self._flows = Flows(backing.link, backing.to_host, tenants)
        self._room, self._make_array = backing.room, array_maker(device)
        # As it was made: to ask the kernel takes too long for `stats`.
        self._huge_page_bytes = (
            huge_page_bytes(self.arena.address, self.arena.size_bytes)
            if self._host_is_device
            else None
        )
        self.store = Store(backing.group_bytes, backing.alignment, backing.host_zeros)
        self.host = Host(host_bytes, None if disk is None else Disk(disk), lock)
        quotas = {
            name: tenant.quota_bytes
            for name, tenant in tenants.items()
            if tenant.quota_bytes is not None
        }
        self.residency = Residency(
            self.arena,
            self._fetch,
            self.host,
            {True: self._make_array, False: array_maker(best_effort_device)},
            now_ns,
            lock,
            arrived,
            quotas,
            EVICTION_ORDERS[eviction](),
        )

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
            [segment.duration_ns + SEGMENT_NS for segment in plan.segments],
            plan.whole.duration_ns,
            self._processor_share,
        )

    @property
    def hidden_bytes_per_s(self) -> float:
        """The link's rate, of the time of a copy that it leaves to what computes; inf if none."""
        left = 1 - self._processor_share
        return self.link_bytes_per_s / left if left else math.inf

    def transfers(self, info: ModelInfo) -> Transfers:
        """How inputs and results of a model's requests are copied."""
        if self._room is None:
            return LinkTransfers(info, self._flows)
        return CudaTransfers(info, self._flows, self._room, self._make_array)

    def _fetch(
        self, model: Residence, first: int, blocks: Sequence[Block], done: FetchDone
    ) -> Cancel:
        assert model.host.data is not None
        data = model.host.data[first : first + len(blocks)]

        def copied(copy: Copy) -> None:
            if copy.error is None:
                for observer in self.observers:
                    _observe(observer, model.name, first, len(blocks), copy)
            done(copy.error)

        starts = [group.__array_interface__["data"][0] for group in data]
        base = min(starts)
        ranges = [
            (block.offset, start - base, group.nbytes)
            for block, start, group in zip(blocks, starts, data, strict=True)
        ]
        flow = self._flows.to_device(model.tenant, model.latency)
        return flow.copy_many((self.arena.address, blocks), (base, data), ranges, copied).cancel

    def stats(self) -> dict[str, Any]:
        """Of the arena, the link by tenant and class, the host, and the disk; on a GPU of
        `transfers` too, inputs and results of requests.

        `huge_page_bytes` of the arena: how much the kernel gave in huge pages when it was made;
        None where that is not known, and on a GPU.
        """
        stats = self.residency.stats()
        stats["arena"] |= {"huge_page_bytes": self._huge_page_bytes}
        if self._room is not None:
            stats["transfers"] = self._room.stats()
        return stats | {"link": self._flows.stats()} | self.host.stats()

    def close(self) -> None:
        """Takes all models off the device and ends the disk and the link. May be called twice."""
        self.residency.close()
        self.host.close()
        self._flows.close()


def _observe(
    observer: Callable[[CopyRecord], None], model: str, first: int, groups: int, copy: Copy
) -> None:
    times = (copy.submitted_ns, copy.started_ns, copy.ended_ns)
    try:
        observer(CopyRecord(model, first, copy.size_bytes, *times, groups))
    except Exception:  # noqa: BLE001 - an observer is the user's
        _log.exception("the copy observer failed")


def order_of_use(plans: Sequence[Plan]) -> list[int]:
    """Parameter leaves as the first plan comes to them; then what only others use."""
    order: dict[int, None] = {}
    for plan in plans:
        for segment in (*plan.segments, plan.whole):
            order.update(dict.fromkeys(segment.params))
    return list(order)
