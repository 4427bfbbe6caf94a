"""Is the channel map found from timing alone, and never guessed?

Maps by the hundred are put into the memory-system simulator, whose oracle gives 5 % of its answers
wrong, with refresh and spikes on top. Right is judged by the simulator on every granule of pages
that the recovery has not met; a legal map that is refused counts as 0. Simulated throughout: it
shows what the method needs, not what a GPU's timings look like.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from rich.console import Console

from benchmarks.report import Report
from missile_jax._native import MemorySimulator, SimulatedProber
from missile_jax.coloring.maps import PAGE_BYTES, ChannelMap
from missile_jax.coloring.published import published
from missile_jax.coloring.random_maps import (
    random_permuted_map,
    random_table_map,
    random_xor_map,
)
from missile_jax.coloring.recover import page_states, recover
from missile_jax.coloring.simulated import address_map, simulated_oracle
from missile_jax.errors import RecoveryError

BUDGET = 15_000
WRONG = 0.05
XOR_CHANNELS = (4, 8, 16, 32, 64)
OTHER_CHANNELS = (6, 12, 36, 80)
STRUCTURELESS_CHANNELS = (4, 6, 8, 12, 32, 36, 64, 80)
NOISES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2)
FURTHER_PAGES = 8


@dataclass(frozen=True, slots=True)
class _Case:
    """family: what the map is counted under; seed: of map, pages, noise and recovery."""

    family: str
    seed: tuple[int, ...]
    channel_map: ChannelMap
    wrong: float = WRONG


def run(quick: bool, seed: int, console: Console) -> Report:
    report = Report("recover", seed, simulated=True)
    others = 50 if quick else 200
    sweep = 4 if quick else 20
    families = (("xor", 200), *((str(m), others) for m in OTHER_CHANNELS), ("none", 100))
    # A process for each processor: nothing of a fork's threads, and each case has its own seed.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for family, count in families:
            console.print(f"{count} maps of family {family} (simulated)")
            report.rows += pool.map(_tried, _cases(family, count, seed), chunksize=4)
        console.print("noise (simulated)")
        noisy = [
            case
            for wrong in NOISES
            for family in ("xor", *map(str, OTHER_CHANNELS))
            for case in _cases(family, sweep, seed + 1, wrong)
        ]
        curve = [row | {"sweep": True} for row in pool.map(_tried, noisy, chunksize=4)]
    report.summary = _summary(report.rows) | _rates(seed)
    report.rows += curve
    return report


def _cases(family: str, count: int, seed: int, wrong: float = WRONG) -> Iterator[_Case]:
    if family == "xor":
        yield _Case(family, (seed, 0, 0), published("gtx1080").channels, wrong)
    for k in range(count):
        key = (seed, 1 + k, sum(map(ord, family)))
        rng = np.random.default_rng(key)
        granule_bytes = int(rng.choice((1024, 2048, 4096)))
        if family == "xor":
            channels = XOR_CHANNELS[k % len(XOR_CHANNELS)]
            made: ChannelMap = random_xor_map(rng, channels, granule_bytes)
        elif family == "none":
            channels = STRUCTURELESS_CHANNELS[k % len(STRUCTURELESS_CHANNELS)]
            made = random_table_map(rng, channels, granule_bytes)
        else:
            made = random_permuted_map(rng, int(family), granule_bytes=granule_bytes)
        yield _Case(family, key, made, wrong)


def _tried(case: _Case) -> dict:
    rng = np.random.default_rng((*case.seed, 7))
    oracle = simulated_oracle(
        address_map(case.channel_map), wrong=case.wrong, seed=int(rng.integers(1 << 31))
    )
    row = {
        "family": case.family,
        "channels": case.channel_map.channels,
        "granule_bytes": case.channel_map.granule_bytes,
        "orders": len(getattr(case.channel_map, "permutations", ())),
        "wrong": case.wrong,
    }
    start = time.perf_counter()
    try:
        found = recover(oracle, budget=BUDGET, seed=int(rng.integers(1 << 31)))
        seconds = time.perf_counter() - start
        met = set(found.states)
        further = page_states(
            oracle, found, [p for p in range(oracle.pages) if p not in met][:FURTHER_PAGES]
        )
    except RecoveryError as error:
        return row | {
            "accuracy": 0.0,
            "seconds": time.perf_counter() - start,
            "refused": str(error),
        }
    states = {page: state for page, (state, _) in further.items()}
    return row | {
        "accuracy": _right(oracle, found.channel_map, found.references, states),
        "probes": found.probes,
        "page_probes": max(*found.page_probes, *(probes for _, probes in further.values())),
        "seconds": seconds,
        "claimed_low": found.accuracy.low,
    }


def _right(
    oracle: SimulatedProber,
    channel_map: ChannelMap,
    references: tuple[int, ...],
    states: dict[int, int],
) -> float:
    """Share of the granules of pages that are in the channel of their colour's reference."""
    offsets = np.arange(0, PAGE_BYTES, channel_map.granule_bytes, dtype=np.uint64)
    channel_of = oracle.channels_of(np.array(references, np.uint64))
    right = [
        channel_of[channel_map.colours(state)] == oracle.channels_of(page * PAGE_BYTES + offsets)
        for page, state in states.items()
    ]
    return float(np.mean(right))


def _summary(rows: list[dict]) -> dict:
    legal = [row for row in rows if row["family"] != "none"]
    solved = [row for row in legal if "probes" in row]
    none = [row for row in rows if row["family"] == "none"]

    def least(family: str) -> float:
        return min(row["accuracy"] for row in legal if row["family"] == family)

    summary = {"xor_accuracy_min": least("xor")}
    summary |= {f"other_accuracy_min.{m}": least(str(m)) for m in OTHER_CHANNELS}
    summary |= {
        "probes_max": max((row["probes"] for row in solved), default=0),
        "probes_per_page_max": max((row["page_probes"] for row in solved), default=0),
        "seconds_max": max(row["seconds"] for row in legal),
        "maps": len(legal),
        "legal_refused": len(legal) - len(solved),
        "structureless": len(none),
        "refused_structureless": sum("refused" in row for row in none),
    }
    for family in ("xor", *map(str, OTHER_CHANNELS)):
        probes = [row["probes"] for row in solved if row["family"] == family]
        if probes:
            summary[f"probes_median.{family}"] = float(np.median(probes))
            summary[f"probes_max.{family}"] = max(probes)
    return summary


def _rates(seed: int) -> dict[str, float]:
    """Accesses that the simulator serves in a second of CPU time: random ones on a GTX 1080."""
    memory = MemorySimulator(address_map(published("gtx1080").channels))
    places = np.random.default_rng(seed).integers(1 << 33, size=1 << 16, dtype=np.uint64)
    rates = {}
    for name, bypass in (("l2", False), ("dram", True)):
        streams = [
            memory.stream(places[half::2], in_flight=16, accesses=1_000_000, bypass_l2=bypass)
            for half in (0, 1)
        ]
        taken = []
        for _ in range(3):
            start = time.process_time()
            memory.run(streams)
            taken.append(time.process_time() - start)
        rates[f"simulator_accesses_per_s.{name}"] = 2_000_000 / min(taken)
    return rates
