"""Address hashes that others have published, kept as data beside their sources."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from missile_jax.coloring.maps import XorMap
from missile_jax.errors import ChannelMapError


@dataclass(frozen=True, slots=True)
class PublishedHash:
    """gpu: where it was found. channels: its channel map, or that of its two L2 sides.

    bank_masks: bit i of the DRAM bank, over all channels, is the parity of ``address & mask``.
    row_bytes: of a DRAM row. Both are None for the L2 sides. source: who published it.
    """

    gpu: str
    channels: XorMap
    bank_masks: tuple[int, ...] | None
    row_bytes: int | None
    source: str


@cache
def _hashes() -> dict[str, PublishedHash]:
    text = (files("missile_jax") / "data" / "address_hashes.json").read_text()
    hashes = {}
    for name, entry in json.loads(text)["maps"].items():
        masks = [
            tuple(int(x, 16) for x in entry.get(k, ())) for k in ("channel_masks", "bank_masks")
        ]
        hashes[name] = PublishedHash(
            gpu=entry["gpu"],
            channels=XorMap(entry["granule_bytes"], masks[0]),
            bank_masks=masks[1] or None,
            row_bytes=entry.get("row_bytes"),
            source=entry["source"],
        )
    return hashes


def published_names() -> list[str]:
    return sorted(_hashes())


def published(name: str) -> PublishedHash:
    """Raises ChannelMapError if there is none of this name."""
    try:
        return _hashes()[name]
    except KeyError:
        raise ChannelMapError(
            f"no published hash named {name!r}: there are {', '.join(published_names())}"
        ) from None
