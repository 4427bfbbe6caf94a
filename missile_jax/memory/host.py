"""Who is in host memory, who has to go to disk, and who comes back from there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from missile_jax.errors import HostMemoryError, MissileError
from missile_jax.memory.disk import Disk
from missile_jax.memory.store import Group, HostModel


class Host:
    """Host memory for `limit_bytes` of parameters, None for no limit, and perhaps a disk behind it.

    Models are given in full or not at all. The disk works on a thread of its own; all methods here
    only decide, and are called under the engine's lock, except `close`.

    moved: called on the disk's thread, without the lock, when it has brought a model, or an error
        instead; None for the model if some have only left.
    """

    def __init__(self, limit_bytes: int | None, disk: Disk | None, lock: Any) -> None:
        self.size_bytes = 0
        self.moved: Callable[[HostModel | None, MissileError | None], None] = nothing
        self._limit_bytes = math.inf if limit_bytes is None else limit_bytes
        self._disk = disk
        self._lock = lock

    def keep(self, model: HostModel, idle: Sequence[HostModel]) -> Future[MissileError | None]:
        """Takes a model that was just put into host memory.

        idle: models that may go to disk instead, in that order. If they are too few, it goes there
            itself.

        The future is done when there is room for it, or has the error why there is none.
        """
        leaving = self._admit(model, idle)
        if leaving is None:
            needed = self._needed(model)
            if needed > self._limit_bytes:
                return _done(
                    HostMemoryError(
                        f"model {model.name!r}: its parameters do not fit into host memory: "
                        f"{needed} bytes would be held, host_memory allows {self._limit_bytes}"
                    )
                )
            leaving = [model]
        return self._move(self._disk, None, leaving) if self._disk and leaving else _done(None)

    def bring(self, model: HostModel, idle: Sequence[HostModel]) -> bool:
        """Has a model that is on disk read, if there is room or some of `idle` can leave it theirs.

        Returns whether it is on its way; if not, ask again when something has changed.
        """
        if self._disk is None:
            return False
        leaving = self._admit(model, idle)
        if leaving is None:
            return False
        self._move(self._disk, model, leaving)
        return True

    def release(self, model: HostModel) -> None:
        """Forgets a model, wherever it is."""
        self._count(model, False)
        model.data, model.moving = None, False
        if self._disk is not None:
            self._disk.run(self._disk.remove, model)

    def close(self) -> None:
        """Ends the disk. May be called twice."""
        with self._lock:
            disk, self._disk = self._disk, None
        if disk is not None:
            disk.close()

    def stats(self) -> dict[str, Any]:
        disk = {} if self._disk is None else {"disk": dict(self._disk.stats)}
        return {"host_bytes": self.size_bytes} | disk

    # Bytes are counted when it is decided that they come or go, not when they do.

    def _admit(self, model: HostModel, idle: Sequence[HostModel]) -> list[HostModel] | None:
        """Counts `model` in, and out those of `idle` who leave; None if that is not enough."""
        self._count(model, True)
        leaving: list[HostModel] = []
        if self._disk is not None:
            for other in idle:
                if self.size_bytes <= self._limit_bytes:
                    break
                # Anew, since it can not lie in what leaves.
                self._count(model, False)
                self._count(other, False)
                self._count(model, True)
                leaving.append(other)
        if self.size_bytes <= self._limit_bytes:
            return leaving
        self._count(model, False)
        for other in leaving:
            self._count(other, True)
        return None

    def _needed(self, model: HostModel) -> int:
        """Bytes held with `model` there, and with a disk nothing else."""
        groups = set(model.groups)
        if self._disk is not None:
            return sum(group.size_bytes for group in groups)
        return self.size_bytes + sum(_added(group, True) for group in groups)

    def _count(self, model: HostModel, counted: bool) -> None:
        if model.counted == counted:
            return
        model.counted = counted
        for group in model.groups:
            if counted:
                self._hold(group, model.data is not None)
            else:
                self._let_go(group)

    # A part that lies in another group keeps all of that one's bytes, so that one is counted.

    def _hold(self, group: Group, here: bool) -> None:
        if group.holders == 0:
            group.inside = _lies_inside(group, here)
            self._add(group)
        group.holders += 1

    def _let_go(self, group: Group) -> None:
        group.holders -= 1
        if group.holders == 0:
            self._take_away(group)

    def _settle(self, group: Group) -> None:
        """Its bytes have come: now it is seen whether they are its own."""
        inside = _lies_inside(group, True)
        if inside != group.inside:
            self._take_away(group)
            group.inside = inside
            self._add(group)

    def _add(self, group: Group) -> None:
        if group.inside and group.whole is not None:
            self._hold(group.whole, True)
        else:
            self.size_bytes += group.size_bytes

    def _take_away(self, group: Group) -> None:
        if group.inside and group.whole is not None:
            self._let_go(group.whole)
        else:
            self.size_bytes -= group.size_bytes

    # On the disk's thread. Who is released meanwhile is no longer moving.

    def _move(
        self, disk: Disk, coming: HostModel | None, leaving: Sequence[HostModel]
    ) -> Future[MissileError | None]:
        for model in leaving if coming is None else (*leaving, coming):
            model.moving = True
        return disk.run(self._moving, disk, coming, leaving)

    def _moving(
        self, disk: Disk, coming: HostModel | None, leaving: Sequence[HostModel]
    ) -> MissileError | None:
        error = self._take_out(disk, leaving)
        if coming is not None:
            error = self._take_in(disk, coming, error)
        self.moved(coming, error)
        return error

    def _take_out(self, disk: Disk, leaving: Sequence[HostModel]) -> MissileError | None:
        error = None
        try:
            for model in leaving:
                disk.save(model)
        except HostMemoryError as failed:
            error = failed
        with self._lock:
            for model in leaving:
                if not model.moving:
                    continue
                model.moving = False
                if error is None:
                    model.data = None
                else:
                    # They stay, even where others have been let in on their account.
                    self._count(model, True)
        return error

    def _take_in(
        self, disk: Disk, coming: HostModel, error: MissileError | None
    ) -> MissileError | None:
        data = None
        if error is None:
            try:
                data = disk.load(coming)
            except MissileError as failed:
                error = failed
        with self._lock:
            if coming.moving:
                coming.moving, coming.data = False, data
                if data is not None:
                    for group in coming.groups:
                        self._settle(group)
                # What it was to share may not have come: then it has to be asked for anew.
                if data is None or self.size_bytes > self._limit_bytes:
                    coming.data = None
                    self._count(coming, False)
        return error


def _lies_inside(group: Group, here: bool) -> bool:
    """Whether its bytes are, or will be, those of the group that it is a part of.

    here: its bytes are in host memory.
    """
    if group.whole is None or group.own_data is not None:
        return False
    return here or group.whole.holders > 0


def _added(group: Group, here: bool) -> int:
    """Bytes that come to those that are counted with one more holder."""
    if group.holders > 0:
        return 0
    if group.whole is not None and _lies_inside(group, here):
        return _added(group.whole, here)
    return group.size_bytes


def _done(error: MissileError | None) -> Future[MissileError | None]:
    future: Future[MissileError | None] = Future()
    future.set_result(error)
    return future


def nothing(*_: Any) -> None:
    """What is called when nobody listens."""
