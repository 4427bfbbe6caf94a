"""Who is let into a queue, and where: limits, deadlines that could not be met, levels."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

from missile_jax.errors import InvalidInputError, OverloadedError, QueueFullError
from missile_jax.schedule.queue import RequestQueue, Waiting
from missile_jax.spec import ModelInfo, Priority


class Asking(Waiting, Protocol):
    """What is to be known of a request besides. deadline_ns: far in the future for none."""

    @property
    def deadline_ns(self) -> int: ...


R = TypeVar("R", bound=Asking)

FIRST_LEVEL = 1
LAST_LEVEL = 2**32 - 1


class TenantQueue(NamedTuple):
    """Requests to all models of one tenant. waiting: how many there are; limit: may be."""

    name: str
    waiting: int
    limit: int


def level_of(model: ModelInfo, priority: int | str) -> int:
    """The level of a request with this `priority`; see `Runtime.submit`.

    Raises InvalidInputError for one that is unknown, or above the model's class.
    """
    own = model.priority.value
    if priority == own:
        return FIRST_LEVEL
    if priority == Priority.BEST_EFFORT.value:
        return LAST_LEVEL
    if type(priority) is int and 0 <= priority <= LAST_LEVEL:
        return max(priority, FIRST_LEVEL)
    raise InvalidInputError(
        f"model {model.name!r}: priority {priority!r} is not allowed; allowed are 1, which goes "
        f"first, to {LAST_LEVEL}, 0 for the default, and "
        + " and ".join(repr(text) for text in sorted({own, Priority.BEST_EFFORT.value}))
    )


def refusal(
    model: str, queue: RequestQueue[R], request: R, tenant: TenantQueue | None, abreast: int | None
) -> QueueFullError | None:
    """Why `request` to `model` is not let into its `queue`; None if it is.

    tenant: None where it has no limit.
    abreast: how many jobs of a model may run at a time; None if nothing can be said of that.
    """
    if queue.full:
        return QueueFullError(
            f"model {model!r}: {len(queue)} requests wait already, which is the limit",
            queue.work_ns / 1e9,
        )
    if tenant is not None and tenant.waiting >= tenant.limit:
        return QueueFullError(
            f"model {model!r}: {tenant.waiting} requests of tenant {tenant.name!r} wait already, "
            "which is the limit"
        )
    if abreast is None or not len(queue):  # nothing is ahead
        return None
    allowed_ns = request.deadline_ns - request.arrival_ns
    # At best, those that run beside each other do not slow each other down.
    ahead_ns = queue.ahead_ns(request.level) // abreast
    late_ns = lateness_ns(ahead_ns, request.work_ns, allowed_ns)
    if not late_ns:
        return None
    return OverloadedError(
        f"model {model!r}: {ahead_ns / 1e6:.1f} ms of work wait already, so the deadline of "
        f"{allowed_ns / 1e6:.1f} ms cannot be met",
        late_ns / 1e9,
    )


def lateness_ns(ahead_ns: int, own_ns: int, allowed_ns: int) -> int:
    """How much too late a request would end at best, in ns; 0 if it may be in time.

    ahead_ns: the least that the work takes which runs before it. Where there is none it is never
        late, whatever its own is said to take: that was measured at another time.
    own_ns: the least that it adds itself.
    allowed_ns: from its arrival to its deadline.
    """
    return max(0, ahead_ns + own_ns - allowed_ns) if ahead_ns else 0
