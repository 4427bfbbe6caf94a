"""Channel plans: who may use which channels, and how full pages get. Pure.

Axes: m channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from missile_jax.errors import ConfigError
from missile_jax.spec import Priority

# Of the channels, while latency-sensitive work runs (Missile, arXiv:2407.13996).
BEST_EFFORT_SHARE = 1 / 3
# Distinct sets of channels from which on the bound on pages is no longer exact.
_EXACT_SETS = 12


@dataclass(frozen=True, slots=True)
class ChannelPlan:
    """Channels of a class, or of a tenant of its own.

    channels: m. latency, best_effort: of the models of each class. tenants: of all models of these
    tenants, whatever their class. Each is kept in ascending order.

    Raises ConfigError for a channel that is not there, or nobody's channels.
    """

    channels: int
    latency: Sequence[int]
    best_effort: Sequence[int]
    tenants: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ConfigError(f"channels={self.channels}: a plan has at least 1 channel")
        for name in ("latency", "best_effort"):
            object.__setattr__(self, name, self._checked(name, getattr(self, name)))
        tenants = {name: self._checked(name, had) for name, had in self.tenants.items()}
        object.__setattr__(self, "tenants", tenants)

    def _checked(self, who: str, channels: Iterable[int]) -> tuple[int, ...]:
        kept = tuple(sorted(set(channels)))
        if not kept:
            raise ConfigError(f"channel plan: {who!r} has no channel; give it at least one")
        if kept[0] < 0 or kept[-1] >= self.channels:
            wrong = kept[0] if kept[0] < 0 else kept[-1]
            raise ConfigError(
                f"channel plan: {who!r} has channel {wrong}; there are 0 to {self.channels - 1}"
            )
        return kept

    @classmethod
    def by_class(
        cls,
        channels: int,
        *,
        best_effort_share: float = BEST_EFFORT_SHARE,
        latency_alone: bool = False,
    ) -> ChannelPlan:
        """BE on the first channels, as many as its share comes to, and at least one; LS on all, or
        with `latency_alone` on those that BE has not.

        Raises ConfigError for a share outside of 0 to 1, or one that leaves LS nothing.
        """
        if not 0 < best_effort_share <= 1:
            raise ConfigError(f"best_effort_share={best_effort_share!r} must lie in (0, 1]")
        first = max(1, round(channels * best_effort_share))
        latency = range(first if latency_alone else 0, channels)
        return cls(channels, tuple(latency), tuple(range(min(first, channels))))

    def of(self, tenant: str, priority: Priority) -> tuple[int, ...]:
        """The channels of a tenant's models of a class."""
        of_class = self.latency if priority is Priority.LATENCY else self.best_effort
        return tuple(self.tenants.get(tenant, of_class))


def least_pages(
    granules: Mapping[tuple[int, ...], int], channels: int, granules_per_page: int
) -> int:
    """The fewest pages that can hold so many granules of each set of channels.

    Every page has as many granules of one channel as of another. So for any channels together, what
    may lie nowhere else has to fit into their part of the pages, and if that holds for all of them
    there is a way (Hall's theorem). Looks at every union of the sets that are asked for; with more
    than a dozen sets at each alone and all together, which may be too few pages.
    """
    sets = {frozenset(had): count for had, count in granules.items() if count}
    unions = {frozenset[int]()}
    if len(sets) <= _EXACT_SETS:
        for had in sets:
            unions |= {union | had for union in unions}
    else:
        unions |= set(sets) | {frozenset().union(*sets)}
    pages = 0
    for union in unions - {frozenset()}:
        bound = sum(count for had, count in sets.items() if had <= union)
        room = granules_per_page * len(union) / channels
        pages = max(pages, math.ceil(bound / room))
    return pages
