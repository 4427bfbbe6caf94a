"""Which models are on the device: who comes in, who has to leave.

Rules, after Torpor (arXiv:2306.03622). Parameters come in group by group in order of use, and go
from the last group on, so that what is left of a model is always its beginning. Eviction copies
nothing: the host has it all, or the disk. Who leaves is for an order of `memory.eviction` to say. A
model that has been let in stays until it has run. A tenant over its quota makes room among its own
models, and waits alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import jax

from missile_jax._native import Arena, Block
from missile_jax.errors import DeviceMemoryError, MissileError
from missile_jax.memory.eviction import EvictionOrder, Return
from missile_jax.memory.host import Host, nothing
from missile_jax.memory.parameters import Urgency
from missile_jax.memory.parked import ParkedArrays
from missile_jax.memory.residence import Counters, Residence
from missile_jax.memory.store import Group, HostModel
from missile_jax.program.plan import Plan

# Told when a copy has ended, with an error or None, on any thread but the one that started it.
FetchDone = Callable[[str | None], None]
# Gives a copy up; one that ends all the same does no harm.
Cancel = Callable[[], object]
# Starts one copy of a model's groups from the k-th on into blocks.
Fetch = Callable[[Residence, int, Sequence[Block], FetchDone], Cancel]
# Makes an array of a DLPack capsule.
MakeArray = Callable[[Any], jax.Array]

_log = logging.getLogger(__name__)


class Residency:
    """Shares an arena among models. All methods are called under the engine's lock.

    fetch: starts a copy from the host. host: what lies there. make_array: see above; for
        latency-sensitive models, and for others.
    now_ns: the engine's clock.
    arrived: called, without the lock, after a copy or the disk has changed what can run.
    lock: the engine's.
    quotas: bytes of the arena that a tenant may hold; no limit for those that are not in it.
    eviction: who leaves first, of those that may.
    """

    def __init__(
        self,
        arena: Arena,
        fetch: Fetch,
        host: Host,
        make_array: Mapping[bool, MakeArray],
        now_ns: Callable[[], int],
        lock: Any,
        arrived: Callable[[], None],
        quotas: Mapping[str, int],
        eviction: EvictionOrder,
    ) -> None:
        self.parked = {latency: ParkedArrays(make) for latency, make in make_array.items()}
        self.now_ns = now_ns
        self._arena = arena
        self._fetch = fetch
        self._host = host
        host.moved = self._moved
        self._lock = lock
        self._arrived = arrived
        self._quotas = dict(quotas)
        self._eviction = eviction
        self._changed = threading.Condition(lock)
        self._models: dict[int, Residence] = {}
        self._counters: dict[tuple[str, str, bool], Counters] = {}
        self._asking: dict[int, Residence] = {}
        self._coming = 0
        # Of a block that a copy is on its way to: the first group that this brings.
        self._copies: dict[Block, tuple[int, Cancel]] = {}

    def add(
        self,
        name: str,
        host: HostModel,
        plans: Sequence[Plan],
        *,
        latency: bool,
        tenant: str,
        cost: Return,
        pinned: bool = False,
    ) -> Residence:
        """Takes a model, with nothing of it on the device yet.

        Raises DeviceMemoryError for one that does not fit even into an empty arena, or a quota.
        """
        size = self._size(host.groups)
        if size > self._arena.size_bytes:
            raise DeviceMemoryError(
                f"model {name!r}: its parameters take {size} bytes on the device, "
                f"the arena has {self._arena.size_bytes}"
            )
        if size > self._quotas.get(tenant, size):
            raise DeviceMemoryError(
                f"model {name!r}: its parameters take {size} bytes on the device, "
                f"the quota of tenant {tenant!r} is {self._quotas[tenant]}"
            )
        residence = Residence(self, name, host, latency, pinned, tenant, cost, 0, ())
        residence.counters = self._counters.setdefault((name, tenant, latency), residence.counters)
        if cost.overlaps:
            firsts = [residence.needs(plan.segments[0]) for plan in plans]
            residence.first_needs = max((groups[-1] + 1 for groups in firsts if groups), default=0)
            needs = [residence.needs(segment) for plan in plans for segment in plan.segments]
            steps = {len(host.groups), *(groups[-1] + 1 for groups in needs if groups)}
            residence.steps = sorted(steps)
        else:
            residence.first_needs = len(host.groups)
            residence.steps = (residence.first_needs,)
        residence.last_used_ns = self.now_ns()
        self._models[id(residence)] = residence
        return residence

    def evict(self, model: Residence) -> int:
        """Takes a model off the device, unless it is in use. Returns the bytes it gave back."""
        held = model.held_bytes
        if not (model.admitted or model.running):
            self._evict_to(model, 0)
            self._let_in_all()
        return held - model.held_bytes

    def remove(self, residence: Residence) -> None:
        """Forgets a model; blocks that a launch still uses become free when it ends.

        Copies to them are given up: the link goes on to the next model's.
        """
        residence.gone = True
        residence.admitted = False
        self._models.pop(id(residence), None)
        self._asking.pop(id(residence), None)
        self._evict_to(residence, 0)
        self._host.release(residence.host)
        self._let_in_all()

    def update(self, model: Residence, waiting: bool, running: bool, urgency: Urgency) -> None:
        model.waiting, model.running, model.urgency = waiting, running, urgency
        if running:
            model.ran, model.last_used_ns = True, self.now_ns()
        elif model.admitted and (model.ran or not waiting):
            model.admitted = model.ran = False
            if model.error is not None:
                # What did not arrive is asked for anew by the next request.
                model.error = None
                self._evict_to(model, 0)
        if not model.admitted and waiting and not model.gone:
            if id(model) not in self._asking:
                model.since_ns = self.now_ns()
                self._asking[id(model)] = model
        elif not waiting:
            self._asking.pop(id(model), None)
        self._let_in_all()

    @property
    def blocked(self) -> bool:
        """Whether a model waits to be let in."""
        return bool(self._asking)

    @property
    def may_unblock_itself(self) -> bool:
        """Whether room may come without a call: a block becomes free with its last view."""
        return bool(self._asking) and self._arena.waiting_blocks > 0

    def retry(self) -> None:
        """Lets in who can be: blocks may have become free by themselves."""
        self._let_in_all()

    def wait(self, timeout_s: float) -> bool:
        """Blocks until a copy ends. False at once if none is on its way and nobody waits."""
        if self._coming == 0 and not self._asking:
            return False
        self._changed.wait(timeout_s)
        self._let_in_all()
        return True

    def shows_arena(self, array: jax.Array) -> bool:
        """Whether `array` lies in the arena. Needs no lock."""
        return self._arena.contains(array.unsafe_buffer_pointer())

    # Letting in, in order: nobody overtakes who has to wait for room. Who waits for room in his
    # tenant's quota holds up that tenant only, and who waits for the disk nobody.

    def _let_in_all(self) -> None:
        self._bring_from_disk()
        full: set[str] = set()
        for model in sorted(self._asking.values(), key=_order):
            if model.tenant in full or not model.at_hand:
                continue
            if not self._room_in_quota(model):
                full.add(model.tenant)
            elif self._let_in(model):
                del self._asking[id(model)]
            else:
                return

    def _bring_from_disk(self) -> None:
        asking = self._asking.values()
        away = [model for model in asking if not (model.at_hand or model.host.moving)]
        for model in sorted(away, key=_order):
            if not self._host.bring(model.host, self.spillable(model)):
                return

    def spillable(self, asker: Residence) -> list[HostModel]:
        """Who may go to disk so that `asker` can be in host memory, least recently used first."""
        idle = [
            other
            for other in self._models.values()
            if other is not asker and other.host.here and _may_spill(other, asker)
        ]
        return [model.host for model in sorted(idle, key=lambda model: model.last_used_ns)]

    def _moved(self, host: HostModel | None, error: MissileError | None) -> None:
        with self._lock:
            model = next((m for m in self._asking.values() if m.host is host), None)
            if model is not None and error is not None:
                # Let in without its parameters: its requests fail with what happened.
                model.error, model.admitted, model.ran = error, True, False
                del self._asking[id(model)]
            self._let_in_all()
            self._changed.notify_all()
        self._arrived()

    def _let_in(self, model: Residence) -> bool:
        missing = model.missing
        if missing:
            if not self._room_for(missing, model):
                return False
            first = len(model.blocks)
            while model.missing:
                if not self._bring_step(model):
                    return False
            model.show_parked(first)
            model.counters.swap_ins += 1
        else:
            model.counters.hits += 1
        self._eviction.used(model)
        model.admitted, model.ran = True, False
        return True

    def _room_for(self, groups: Sequence[Group], model: Residence) -> bool:
        need = self._size(groups)
        free = self._arena.free_bytes
        if need <= free:
            return True
        evictable = sum(other.held_bytes for other in self._evictable(model))
        return need <= free + evictable

    def _room_in_quota(self, model: Residence) -> bool:
        """Makes it among the tenant's own models, if that suffices."""
        quota = self._quotas.get(model.tenant)
        if quota is None:
            return True
        own = [other for other in self._models.values() if other.tenant == model.tenant]
        excess = self._size(model.missing) + sum(other.held_bytes for other in own) - quota
        victims = [other for other in self._evictable(model) if other.tenant == model.tenant]
        if excess > sum(other.held_bytes for other in victims):
            return False
        for victim in sorted(victims, key=self._leaves):
            if excess <= 0:
                break
            self._eviction.evicted(victim)
            while excess > 0 and victim.blocks:
                before = victim.held_bytes
                self._evict_to(victim, len(victim.blocks) - 1)
                excess -= before - victim.held_bytes
        return True

    def _size(self, groups: Iterable[Group]) -> int:
        """What they take in the arena."""
        return sum(self._arena.rounded(group.size_bytes) for group in groups)

    def _bring_step(self, model: Residence) -> bool:
        """Takes blocks for one more step, and starts its copy. False if there is no room for all;
        then for as much as there is."""
        first, groups = len(model.blocks), model.missing_of_step
        for group in groups:
            block = self._allocate(group, model)
            if block is None:
                break
            block.pin()
            model.blocks.append(block)
            model.held_bytes += self._arena.rounded(block.size_bytes)
            model.counters.swap_in_bytes += group.size_bytes
        blocks = model.blocks[first:]
        if blocks:
            self._coming += 1
            # Its end waits for the lock, so it comes after this.
            cancel = self._fetch(
                model, first, blocks, lambda error: self._came(model, first, blocks, error)
            )
            self._copies |= dict.fromkeys(blocks, (first, cancel))
        return len(blocks) == len(groups)

    def _came(
        self, model: Residence, first: int, blocks: Sequence[Block], error: str | None
    ) -> None:
        with self._lock:
            self._coming -= 1
            for block in blocks:
                self._copies.pop(block, None)
                block.unpin()
            runnable = error is not None
            # They left together, or not at all.
            if model.blocks[first : first + 1] == blocks[:1]:
                if error is not None:
                    model.error = DeviceMemoryError(
                        f"model {model.name!r}: its parameters did not reach the device: {error}"
                    )
                elif model.error is None:
                    runnable = model.came(range(first, first + len(blocks)))
            self._let_in_all()
            self._changed.notify_all()
        if runnable:
            self._arrived()

    # Making room.

    def _allocate(self, group: Group, model: Residence) -> Block | None:
        size_bytes = group.size_bytes
        near = model.blocks[-1] if model.blocks else None
        while (block := self._arena.allocate(size_bytes, near, model.places(group))) is None:
            # To move as much as a group has is cheaper than to bring another one anew.
            if self._make_room(size_bytes, size_bytes):
                continue
            victim = self._victim(model)
            if victim is not None:
                self._eviction.evicted(victim)
                self._evict_to(victim, len(victim.blocks) - 1)
                continue
            self._drop_idle_views()
            if not self._make_room(size_bytes, self._arena.size_bytes):
                return None
        return block

    def _make_room(self, size_bytes: int, most_bytes: int) -> bool:
        """Moves blocks of idle models without views together."""
        if self._arena.free_bytes < size_bytes:
            return False
        try:
            return self._arena.make_room(size_bytes, most_bytes)
        except RuntimeError:  # Of the device; a block whose bytes are lost says so when used.
            _log.exception("blocks could not be moved")
            return False

    def _victim(self, model: Residence) -> Residence | None:
        return min(self._evictable(model), key=self._leaves, default=None)

    def _leaves(self, model: Residence) -> tuple[Any, ...]:
        return (model.waiting, *self._eviction.key(model))

    def _evictable(self, model: Residence) -> Iterator[Residence]:
        """Who could make room for `model`."""
        for other in self._models.values():
            in_use = other.admitted or other.running or other.pinned
            if other is not model and other.blocks and not in_use:
                yield other

    def _evict_to(self, model: Residence, groups: int) -> None:
        """Leaves the first `groups` groups of a model on the device, less what comes by one copy
        with a later one."""
        groups = min(
            [groups, *(self._copies[b][0] for b in model.blocks[groups:] if b in self._copies)]
        )
        if groups < model.here == len(model.host.groups):
            model.counters.evictions += 1
        while len(model.blocks) > groups:
            k = len(model.blocks) - 1
            model.drop_arrays(k)
            block = model.blocks.pop()
            model.held_bytes -= self._arena.rounded(block.size_bytes)
            model.counters.evicted_bytes += block.size_bytes
            block.release()
            first, cancel = self._copies.pop(block, (-1, nothing))
            if first == k:
                cancel()
        model.here = min(model.here, groups)
        model.early = {k for k in model.early if k < groups}

    def _drop_idle_views(self) -> None:
        for model in self._models.values():
            if not (model.admitted or model.running):
                for k in range(len(model.blocks)):
                    model.drop_arrays(k)

    def close(self) -> None:
        """Takes every model off the device. Pieces of copies that are under way still end."""
        with self._lock:
            for model in list(self._models.values()):
                self.remove(model)
            for parked in self.parked.values():
                parked.clear()
            # All lead back to here: without them the arena ends with its last reference.
            self._fetch = lambda *_: nothing
            self._arrived = self._host.moved = nothing

    def stats(self) -> dict[str, Any]:
        """The arena's figures, how many models are on the device in full, and counters of every
        model that is or was there."""
        return {
            "arena": self._arena.stats(),
            "models": len(self._models),
            "resident_models": sum(m.here == len(m.host.groups) for m in self._models.values()),
            "waiting_models": len(self._asking),
            "swaps": [
                {"model": name, "tenant": tenant, "latency": latency} | asdict(counted)
                for (name, tenant, latency), counted in self._counters.items()
            ],
        }


def _order(model: Residence) -> tuple[bool, Urgency, int, str]:
    return (not model.latency, model.urgency, model.since_ns, model.name)


def _may_spill(model: Residence, asker: Residence) -> bool:
    if model.admitted or model.running:
        return False
    # Of two that wait for device memory, the later one has to let the first go ahead.
    return not model.waiting or (asker.waiting and _order(asker) < _order(model))
