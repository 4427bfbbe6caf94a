"""How two classes slow each other down in a memory: simulated accesses, on a grid.

Axes of the grid: pressure of LS, pressure of BE, coloured share of LS, coloured share of BE.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from missile_jax._native import AccessStream, AddressMap, MemorySimulator, MemoryTiming
from missile_jax.coloring.gpus import Gpu
from missile_jax.coloring.plan import ChannelPlan
from missile_jax.coloring.worth import Phase

# Where accesses are simulated; between, what is looked for is interpolated. Nobody is slowed down
# at a pressure of 0.
PRESSURES = (1 / 3, 2 / 3, 1.0)
SHARES = (0.0, 0.5, 1.0)
_ACCESS_BYTES, _GRANULE_BYTES, _ROW_BYTES = 64, 1024, 2048
_WIDTH = _GRANULE_BYTES // _ACCESS_BYTES
# An access moves half a line; two slices a channel are faster than any of the buses.
_SLICE_PS = 1_000
_BANK_BITS = 4
_GROUPS = 64
_REGION_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Setting:
    """What is simulated, besides a data sheet's figures.

    in_flight_s: a class keeps as many bytes under way as the memory moves in this time: enough to
        fill it alone. best_effort_in_flight: BE's, over LS's.
    rounds: how often each of its warps asks. seed: of the map's permutations and of which granules
        are coloured.
    """

    in_flight_s: float = 1e-6
    best_effort_in_flight: float = 1.0
    rounds: int = 24
    seed: int = 0


class SimulatedInterference:
    """Slowdowns measured on a simulated memory of `gpu`: for LS and BE in the channels of `plan`.

    A class's coloured bytes lie in its own channels, the others on all. Both are streams past the
    L2 that read granules one after another. Reference is the class alone with all on all channels.
    """

    def __init__(self, gpu: Gpu, plan: ChannelPlan, setting: Setting = Setting()) -> None:
        bench = _Bench(gpu, setting)
        self._known: dict[tuple[Phase | None, Phase | None], tuple[float, float]] = {}
        levels = range(len(PRESSURES) + 1), range(len(SHARES))
        # [pressure, pressure, share, share, (LS, BE)]
        self._both = np.ones((4, 4, 3, 3, 2))
        self._alone = np.ones((4, 3, 2))
        classes = ((plan.latency, 1.0, 0), (plan.best_effort, setting.best_effort_in_flight, 1))
        made = {
            (who, p, c): bench.stream(PRESSURES[p - 1], SHARES[c], channels, in_flight, who)
            for channels, in_flight, who in classes
            for p, c in itertools.product(levels[0], levels[1])
            if p
        }
        alone = {key: bench.rates(one)[0] for key, one in made.items()}
        for (who, p, c), rate in alone.items():
            self._alone[p, c, who] = alone[who, p, 0] / rate
        for p, q, c, d in itertools.product(levels[0], levels[0], levels[1], levels[1]):
            if p and q:
                rates = bench.rates(made[0, p, c], made[1, q, d])
                reference = alone[0, p, 0], alone[1, q, 0]
                self._both[p, q, c, d] = np.divide(reference, rates)
            else:
                self._both[p, q, c, d] = self._alone[p, c, 0], self._alone[q, d, 1]

    def slowdown(self, ls: Phase | None, be: Phase | None) -> tuple[float, float]:
        found = self._known.get((ls, be))
        if found is None:
            found = self._known[ls, be] = self._interpolated(ls, be)
        return found

    def _interpolated(self, ls: Phase | None, be: Phase | None) -> tuple[float, float]:
        idle = Phase(0.0, 0.0, 0.0)
        one, other = ls or idle, be or idle
        axes = [(0.0, *PRESSURES)] * 2 + [SHARES] * 2
        at = (one.pressure, other.pressure, one.coloured, other.coloured)
        table = self._both
        for axis, value in zip(axes, at, strict=True):
            table = _along(table, axis, value)
        # Nothing runs faster because of a neighbour: less than 1 is the grid's own noise.
        return max(1.0, float(table[0])), max(1.0, float(table[1]))


def _along(table: np.ndarray, axis: Sequence[float], value: float) -> np.ndarray:
    """`table` [n, ...] at `value` of its first axis."""
    k = min(max(int(np.searchsorted(axis, value, side="right")) - 1, 0), len(axis) - 2)
    part = min(max((value - axis[k]) / (axis[k + 1] - axis[k]), 0.0), 1.0)
    return (1 - part) * table[k] + part * table[k + 1]


class _Bench:
    """A simulated memory with a data sheet's channels and rate, and streams over it."""

    def __init__(self, gpu: Gpu, setting: Setting) -> None:
        self._rng = np.random.default_rng(setting.seed)
        self._rounds = setting.rounds
        self._channels = gpu.channels
        orders = [self._rng.permutation(gpu.channels) for _ in range(_GROUPS)]
        table = np.concatenate(orders).astype(np.uint8)
        low = round(math.log2(_ROW_BYTES * gpu.channels))
        banks = [(1 << low + k) | (1 << low + _BANK_BITS + k) for k in range(_BANK_BITS)]
        self._map = AddressMap.table(
            _GRANULE_BYTES, gpu.channels, table.tobytes(), bank_masks=banks,
            row_shift=low + _BANK_BITS, slices_per_channel=2,
        )  # fmt: skip
        burst_ps = round(_ACCESS_BYTES / gpu.channel_bytes_per_s * 1e12)
        timing = MemoryTiming(burst_ps=burst_ps, slice_ps=_SLICE_PS)
        self._simulator = MemorySimulator(self._map, timing)
        self._warps = math.ceil(gpu.bytes_per_s * setting.in_flight_s / (_WIDTH * _ACCESS_BYTES))
        probe = self._made(self._granules(0.0, (), 0), self._warps, 0)
        self._round_ps = self._warps * _WIDTH / self.rates(probe)[0]
        single = self._made(self._granules(0.0, (), 0), 1, 0)
        self._idle_ps = _WIDTH / self.rates(single)[0]

    def stream(
        self, pressure: float, share: float, own: Sequence[int], in_flight: float, who: int
    ) -> AccessStream:
        """One that would keep the memory busy for `pressure` of the time, if it were alone."""
        warps = max(1, round(self._warps * in_flight))
        gap_ps = max(0, round(self._round_ps / pressure - self._idle_ps)) if pressure < 1 else 0
        return self._made(self._granules(share, own, who), warps, gap_ps)

    def _granules(self, share: float, own: Sequence[int], who: int) -> np.ndarray:
        """Addresses of granules of a class's own region; `share` of them in its own channels."""
        base = who * 4 * _REGION_BYTES
        starts = base + np.arange(0, _REGION_BYTES, _GRANULE_BYTES, dtype=np.uint64)
        if share == 0:
            return starts
        channels = self._map.channels_of(starts)
        coloured = starts[np.isin(channels, own)]
        return np.where(
            np.random.default_rng(who).random(len(starts)) < share,
            np.resize(coloured, len(starts)),
            starts,
        )

    def _made(self, starts: np.ndarray, warps: int, gap_ps: int) -> AccessStream:
        offsets = np.arange(0, _GRANULE_BYTES, _ACCESS_BYTES, dtype=np.uint64)
        addresses = (starts[:, None] + offsets).reshape(-1)
        return self._simulator.stream(
            addresses, width=_WIDTH, in_flight=warps, gap_ps=gap_ps,
            accesses=warps * _WIDTH * self._rounds, bypass_l2=True,
        )  # fmt: skip

    def rates(self, *streams: AccessStream) -> list[float]:
        """Accesses a ps of each, while they run beside each other."""
        results = self._simulator.run(list(streams))
        return [one.accesses / one.done_ps for one in results]
