"""Arrays of models that have left, kept for whoever comes to lie where they show."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import jax

from missile_jax._native import Block, ViewLayout, Views

# Some 600 bytes each.
_MOST_ARRAYS = 50_000


class ParkedArrays:
    """Makes arrays of blocks, and uses those again that were made for the same layout and place.

    To make one takes JAX some microseconds, and a model has hundreds; to use one again takes none
    of that. Equal layouts have to be the same object. Safe on any thread.

    make: an array of a DLPack capsule.
    """

    def __init__(self, make: Callable[[Any], jax.Array]) -> None:
        self._make = make
        self._parked: OrderedDict[tuple[ViewLayout, int], Views[jax.Array]] = OrderedDict()
        # Of each layout, the offsets, ascending.
        self._places: defaultdict[ViewLayout, list[int]] = defaultdict(list)
        self._arrays = 0
        self._lock = threading.Lock()

    def places(self, layout: ViewLayout) -> tuple[int, ...]:
        """Offsets in the arena, ascending, at which arrays of `layout` are parked."""
        with self._lock:
            return tuple(self._places.get(layout, ()))

    def take(self, block: Block, layout: ViewLayout) -> Views[jax.Array] | None:
        """Parked arrays that now show `block`, which has a pin; None if there are none."""
        with self._lock:
            views = self._parked.pop((layout, block.offset), None)
            if views is None:
                return None
            self._forget(layout, views)
        return views if views.attach(block) else None

    def make(self, block: Block, layout: ViewLayout) -> Views[jax.Array]:
        """New arrays that show `block`, which has a pin."""
        return block.views(layout, self._make)

    def park(self, layout: ViewLayout, views: Views[jax.Array]) -> None:
        """Takes arrays that nobody else holds; those that somebody does end with their holder."""
        if not views.park():
            return
        with self._lock:
            # The place had no owner between: two for one place there can not be.
            self._parked[layout, views.offset] = views
            insort(self._places[layout], views.offset)
            self._arrays += len(views)
            while self._arrays > _MOST_ARRAYS:
                (layout, _), oldest = self._parked.popitem(last=False)
                self._forget(layout, oldest)

    def _forget(self, layout: ViewLayout, views: Views[jax.Array]) -> None:
        self._arrays -= len(views)
        places = self._places[layout]
        places.pop(bisect_left(places, views.offset))
        if not places:
            del self._places[layout]

    def clear(self) -> None:
        with self._lock:
            self._parked.clear()
            self._places.clear()
            self._arrays = 0
