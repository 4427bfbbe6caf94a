"""Recovered maps as JSON files, one for each GPU model."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from missile_jax.coloring.maps import PermutedMap, XorMap
from missile_jax.coloring.recover import Recovery
from missile_jax.errors import ChannelMapError

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class SavedMap:
    """gpu: model name. simulated: whether the timings were. accuracy: as it was reported."""

    gpu: str
    simulated: bool
    channel_map: XorMap | PermutedMap
    accuracy: str
    probes: int


def saved_from(recovery: Recovery, gpu: str, simulated: bool) -> SavedMap:
    return SavedMap(gpu, simulated, recovery.channel_map, str(recovery.accuracy), recovery.probes)


def default_path(gpu: str) -> Path:
    """Where the map of a GPU model is kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return cache / "missile-jax" / "channels" / f"{name}.json"


def save(saved: SavedMap, path: Path) -> None:
    """Writes it at once: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        {
            "format": _FORMAT,
            "gpu": saved.gpu,
            "simulated": saved.simulated,
            "map": map_to_dict(saved.channel_map),
            "accuracy": saved.accuracy,
            "probes": saved.probes,
        },
        indent=1,
    )
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text + "\n")
    os.replace(partial, path)


def load(path: Path) -> SavedMap:
    """Raises ChannelMapError if the file is missing or damaged."""
    try:
        given = json.loads(path.read_text())
    except OSError as error:
        raise ChannelMapError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ChannelMapError(f"{path}: not JSON: {error}") from error
    if not isinstance(given, dict) or given.get("format") != _FORMAT:
        raise ChannelMapError(f"{path}: not a channel map of format {_FORMAT}")
    try:
        return SavedMap(
            gpu=str(given["gpu"]),
            simulated=bool(given["simulated"]),
            channel_map=map_from_dict(given["map"]),
            accuracy=str(given["accuracy"]),
            probes=int(given["probes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ChannelMapError(f"{path}: damaged: {error!r}") from error


def map_to_dict(channel_map: XorMap | PermutedMap) -> dict[str, Any]:
    if isinstance(channel_map, XorMap):
        return {
            "family": "xor",
            "granule_bytes": channel_map.granule_bytes,
            "masks": [hex(mask) for mask in channel_map.masks],
        }
    return {
        "family": "permuted",
        "granule_bytes": channel_map.granule_bytes,
        "channels": channel_map.channels,
        "index_masks": [hex(mask) for mask in channel_map.index_masks],
        "permutations": [list(order) for order in channel_map.permutations],
    }


def map_from_dict(given: dict[str, Any]) -> XorMap | PermutedMap:
    """Raises ChannelMapError, KeyError, TypeError or ValueError if it is no map."""
    family = given["family"]
    if family == "xor":
        return XorMap(given["granule_bytes"], tuple(int(mask, 16) for mask in given["masks"]))
    if family == "permuted":
        return PermutedMap(
            given["granule_bytes"],
            given["channels"],
            tuple(int(mask, 16) for mask in given["index_masks"]),
            tuple(tuple(order) for order in given["permutations"]),
        )
    raise ChannelMapError(f"family {family!r}: must be xor or permuted")
