"""Calls of many functions on one device: drawn from a law like production's, or from a trace.

The law has the published quantiles of Azure Functions (Shahrad et al., USENIX ATC'20): 85 % of
functions are called at most once a minute, 97 % at most once a second. Calls come in bursts: each
minute has a rate of its own. Of those that are called hardly ever, only the ones that a run of an
hour would see are drawn.

Left alone, a handful of functions makes nearly all calls, and would fill a device by itself. Their
calls are spread over several devices, of which this is one: the busiest tenth makes at most
`BUSIEST_SHARE` of the calls here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np

from benchmarks.arrivals import spread, streams_from

# (share of functions, calls a minute that they do not exceed)
_QUANTILES = ((0.85, 1.0), (0.97, 60.0))
_SELDOM_PER_MINUTE = 0.1
# Of the gamma distribution by which a minute's rate is off: the smaller, the burstier.
_BURST_SHAPE = 0.5
BUSIEST_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class Calls:
    """at_s: offsets [n], ascending. function: which one is called [n]."""

    at_s: np.ndarray
    function: np.ndarray

    def __len__(self) -> int:
        return len(self.at_s)

    def at_load(self, load: float, service_s: np.ndarray) -> Calls:
        """The same calls over the time in which they keep one server busy for `load` of it.

        service_s: of each function.
        """
        length_s = service_s[self.function].sum() / load
        return replace(self, at_s=self.at_s * (length_s / self.at_s[-1]))

    def parts(self, edges: Sequence[int]) -> list[Calls]:
        """Cut before each of `edges`, with times from each part's beginning on."""
        ends_s = [self.at_s[edge - 1] for edge in edges]
        times = np.split(self.at_s, edges)
        return [
            Calls(at_s - start_s, function)
            for at_s, start_s, function in zip(
                times, [0.0, *ends_s], np.split(self.function, edges), strict=True
            )
        ]


def production(functions: int, count: int, seed: int) -> Calls:
    """`count` calls of `functions` by the law."""
    rng = np.random.default_rng(seed)
    rates = rng.permutation(_rates(functions))
    minutes = math.ceil(1.5 * count / rates.sum()) + 10
    burst = rng.gamma(_BURST_SHAPE, 1 / _BURST_SHAPE, (functions, minutes))
    counts = rng.poisson(rates[:, None] * burst)
    return _merged([spread(row, rng) for row in counts], count)


def from_trace(path: Path, functions: int, count: int, seed: int) -> Calls:
    """The first `count` calls of a trace, or all if it has fewer.

    Where the trace has fewer functions, several follow the same one, at other times of its day.
    Functions without a call are left out.

    Raises ValueError for a file that is no trace; see `benchmarks.arrivals`.
    """
    rng = np.random.default_rng(seed)
    streams = [stream for stream in streams_from(path, rng) if len(stream)]
    start_s = min(stream.min() for stream in streams)
    streams = [stream - start_s for stream in streams]
    length_s = max(stream.max() for stream in streams)
    dealt = [streams[k % len(streams)] for k in rng.permutation(functions)]
    shifts = np.where(np.arange(functions) < len(streams), 0.0, rng.uniform(0, length_s, functions))
    ceiling = _ceiling(np.array([len(stream) for stream in dealt], float))
    return _merged(
        [
            (stream[rng.random(len(stream)) * len(stream) < ceiling] + shift) % length_s
            for stream, shift in zip(dealt, shifts, strict=True)
        ],
        count,
    )


def _rates(functions: int) -> np.ndarray:
    """Calls a minute of each function [functions]: a log-normal law's quantiles."""
    normal = NormalDist()
    (low, low_rate), (high, high_rate) = _QUANTILES
    at = [normal.inv_cdf(share) for share in (low, high)]
    slope = math.log(high_rate / low_rate) / (at[1] - at[0])
    shares = (np.arange(functions) + 0.5) / functions
    logs = [math.log(low_rate) + slope * (normal.inv_cdf(s) - at[0]) for s in shares]
    rates = np.maximum(np.exp(logs), _SELDOM_PER_MINUTE)
    return np.minimum(rates, _ceiling(rates))


def _ceiling(rates: np.ndarray) -> float:
    """The highest of `rates` at which to cut them all so that the busiest tenth has its share."""
    ordered = np.sort(rates)[::-1]
    tenth = math.ceil(len(rates) / 10)
    for ceiling in ordered:
        cut = np.minimum(ordered, ceiling)
        if cut[:tenth].sum() <= BUSIEST_SHARE * cut.sum():
            return float(ceiling)
    return float(ordered[-1])


def _merged(streams: Sequence[np.ndarray], count: int) -> Calls:
    at_s = np.concatenate(streams)
    function = np.repeat(np.arange(len(streams)), [len(stream) for stream in streams])
    order = np.argsort(at_s, kind="stable")[:count]
    first_s = at_s[order[0]]
    return Calls(at_s[order] - first_s, function[order])
