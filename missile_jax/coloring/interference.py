"""How two classes slow each other down in a memory: simulated accesses, at points of a grid."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from missile_jax._native import AccessStream, AddressMap, MemorySimulator, MemoryTiming
from missile_jax.coloring.gpus import Gpu
from missile_jax.coloring.plan import ChannelPlan
from missile_jax.coloring.worth import Phase

# Where accesses are simulated; between, what is looked for is interpolated. Coloured shares lie
# close together where little is coloured: there the first granules matter most.
PRESSURES = (0.0, 0.25, 0.5, 0.75, 1.0)
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
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
        self._bench = _Bench(gpu, setting)
        self._classes = (
            (tuple(plan.latency), 1.0),
            (tuple(plan.best_effort), setting.best_effort_in_flight),
        )
        self._known: dict[tuple[Phase | None, Phase | None], tuple[float, float]] = {}
        self._corners: dict[tuple[float, float, float, float], tuple[float, float]] = {}
        self._alone: dict[tuple[int, float], float] = {}

    def slowdown(self, ls: Phase | None, be: Phase | None) -> tuple[float, float]:
        found = self._known.get((ls, be))
        if found is None:
            found = self._known[ls, be] = self._interpolated(ls, be)
        return found

    def _interpolated(self, ls: Phase | None, be: Phase | None) -> tuple[float, float]:
        idle = Phase(0.0, 0.0, 0.0)
        one, other = ls or idle, be or idle
        sides = (
            _between(PRESSURES, one.pressure),
            _between(PRESSURES, other.pressure),
            _between(SHARES, one.coloured),
            _between(SHARES, other.coloured),
        )
        slower = np.zeros(2)
        for corner in itertools.product(*sides):
            (p, p_part), (q, q_part), (c, c_part), (d, d_part) = corner
            slower += p_part * q_part * c_part * d_part * np.array(self._corner(p, q, c, d))
        # Nothing runs faster because of a neighbour: less than 1 is the simulation's own noise.
        return max(1.0, float(slower[0])), max(1.0, float(slower[1]))

    def _corner(self, p: float, q: float, c: float, d: float) -> tuple[float, float]:
        """(LS, BE) at pressures p and q with shares c and d. Who does not press is not slowed."""
        at = (p, q, c if p else 0.0, d if q else 0.0)
        if at not in self._corners:
            self._corners[at] = self._simulated(*at)
        return self._corners[at]

    def _simulated(self, p: float, q: float, c: float, d: float) -> tuple[float, float]:
        asked = [(who, *of) for who, of in enumerate([(p, c), (q, d)]) if of[0]]
        rates = self._bench.rates(*(self._stream(*one) for one in asked)) if asked else []
        slower = [1.0, 1.0]
        for (who, pressure, _), rate in zip(asked, rates, strict=True):
            slower[who] = self._rate_alone(who, pressure) / rate
        return slower[0], slower[1]

    def _rate_alone(self, who: int, pressure: float) -> float:
        if (who, pressure) not in self._alone:
            (rate,) = self._bench.rates(self._stream(who, pressure, 0.0))
            self._alone[who, pressure] = rate
        return self._alone[who, pressure]

    def _stream(self, who: int, pressure: float, share: float) -> AccessStream:
        channels, in_flight = self._classes[who]
        return self._bench.stream(pressure, share, channels, in_flight, who)


def _between(axis: Sequence[float], value: float) -> list[tuple[float, float]]:
    """The axis's points around a value, each with its weight; those without weight are left out."""
    k = min(bisect.bisect_right(axis, value), len(axis) - 1) - 1
    part = min(max((value - axis[k]) / (axis[k + 1] - axis[k]), 0.0), 1.0)
    return [(at, w) for at, w in ((axis[k], 1 - part), (axis[k + 1], part)) if w]


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
