"""Coloured memory of one device: tensors in the channels that a plan gives their owners.

A plan can change while tensors are there. Those that a launch uses keep their channels until it has
ended; `settle` moves them then. Nothing is lost if there is no room to move: it stays where it is,
counts as astray, and the next `settle` tries again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from missile_jax._native import Arena, GranulePool, Granules
from missile_jax.coloring.maps import PAGE_BYTES, ChannelMap
from missile_jax.coloring.plan import ChannelPlan, least_pages
from missile_jax.errors import ConfigError, DeviceMemoryError
from missile_jax.spec import Priority


def colour_table(channel_map: ChannelMap, states: Sequence[int]) -> np.ndarray:
    """[pages, granules of a page] uint8, for pages in these states."""
    colours = {state: channel_map.colours(state) for state in set(states)}
    return np.stack([colours[state] for state in states])


@dataclass(slots=True, eq=False)
class Tensor:
    """Bytes of one owner, in granules. `granules` tells where, and takes the pins of launches."""

    tenant: str
    priority: Priority
    granules: Granules


class ColouredMemory:
    """Granules of an arena by a plan. Callers hold one lock for all calls; pins need none.

    colours: [pages, granules of a page] uint8, the channel of each granule of each whole page of
        `arena`.
    plan: for the map's channels.

    Raises ConfigError if they do not fit together.
    """

    def __init__(
        self, arena: Arena, colours: np.ndarray, granule_bytes: int, plan: ChannelPlan
    ) -> None:
        try:
            self.pool = GranulePool(arena, colours, granule_bytes, plan.channels)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self.plan = plan
        self._arena = arena
        self._tensors: dict[int, Tensor] = {}

    def place(self, tenant: str, priority: Priority, size_bytes: int) -> Tensor:
        """Room for a tensor in its owner's channels.

        Blocks of the arena that nobody uses move if they are in the way, and pages that are hardly
        used are emptied. Raises DeviceMemoryError if there is no room even so.
        """
        channels = self.plan.of(tenant, priority)
        granules = self.pool.allocate(size_bytes, channels)
        if granules is None and (
            self.pool.make_room(size_bytes, channels)
            or (self.pool.gather() and self.pool.make_room(size_bytes, channels))
        ):
            granules = self.pool.allocate(size_bytes, channels)
        if granules is None:
            raise DeviceMemoryError(
                f"tenant {tenant!r}: {size_bytes} bytes do not fit into its {len(channels)} of "
                f"{self.plan.channels} channels; the arena has {self._arena.free_bytes} bytes free"
            )
        tensor = Tensor(tenant, priority, granules)
        self._tensors[id(tensor)] = tensor
        return tensor

    def remove(self, tensor: Tensor) -> None:
        """Gives a tensor's granules back, once no launch uses them."""
        del self._tensors[id(tensor)]
        tensor.granules.release()

    def replan(self, plan: ChannelPlan) -> int:
        """Moves every tensor to the channels of another plan. Returns how many are astray still.

        Raises ConfigError for a plan of another number of channels.
        """
        if plan.channels != self.plan.channels:
            raise ConfigError(
                f"channel plan: it is for {plan.channels} channels, the device has "
                f"{self.plan.channels}"
            )
        self.plan = plan
        return self.settle()

    def settle(self) -> int:
        """Moves what is not where the plan wants it. Returns how many tensors could not go yet."""
        moved, left = True, self._astray()
        while left and moved:
            moved = False
            for tensor in left:
                channels = self.plan.of(tensor.tenant, tensor.priority)
                moved |= self.pool.recolour(tensor.granules, channels)
            # What one has left, another may need.
            left = self._astray()
        self.pool.gather()
        return len(left)

    def _astray(self) -> list[Tensor]:
        return [
            tensor
            for tensor in self._tensors.values()
            if tensor.granules.channels != self.plan.of(tensor.tenant, tensor.priority)
        ]

    def stats(self) -> dict[str, Any]:
        """What is held, by channel, and what of it is of no use.

        utilisation: of the granules of the pages that are held, the share in use.
        waste: of those pages, the share that could be done without: the others hold all that is
            there, each in its channels. What a plan leaves free in a page is not waste.
        padding: of the bytes in use, the share that nobody asked for.
        astray: tensors that are not where the plan wants them.
        """
        stats = self.pool.stats()
        used = sum(stats["used_granules"])
        per_page = PAGE_BYTES // self.pool.granule_bytes
        needed = least_pages(self._demand(), self.plan.channels, per_page)
        pages = stats["pages"]
        used_bytes = used * self.pool.granule_bytes
        return stats | {
            "channels": self.plan.channels,
            "granule_bytes": self.pool.granule_bytes,
            "used_bytes": used_bytes,
            "needed_pages": needed,
            "utilisation": used / (pages * per_page) if pages else 1.0,
            "waste": max(0.0, 1 - needed / pages) if pages else 0.0,
            "padding": 1 - stats["requested_bytes"] / used_bytes if used_bytes else 0.0,
            "astray": len(self._astray()),
        }

    def _demand(self) -> Counter[tuple[int, ...]]:
        demand: Counter[tuple[int, ...]] = Counter()
        for tensor in self._tensors.values():
            size = tensor.granules.size_bytes
            demand[tensor.granules.channels] += -(-size // self.pool.granule_bytes)
        return demand
