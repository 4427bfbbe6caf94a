"""A channel plan against none: the same requests, each layout in turn. Simulated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from missile_jax.coloring.worth import (
    LAYOUTS,
    Interference,
    Outcome,
    Stream,
    percentile,
    simulate,
)


@dataclass(frozen=True, slots=True)
class Load:
    """requests: of LS. busy: the share of its time that LS would run, if it were alone.
    seed: of the Poisson arrivals."""

    requests: int = 1000
    busy: float = 0.3
    seed: int = 0

    def arrivals_s(self, ls: Stream) -> list[float]:
        gaps = np.random.default_rng(self.seed).exponential(1.0, self.requests)
        return (np.cumsum(gaps) * ls.alone_s / self.busy).tolist()


@dataclass(frozen=True, slots=True)
class Worth:
    """One layout for a pair of models.

    p99_change, be_rate_change: over layout "none", as a share: -0.3 is lower by 30 %.
    overlap: see `Outcome`.
    """

    ls: str
    be: str
    layout: str
    p50_ms: float
    p99_ms: float
    p99_change: float
    be_rate_per_s: float
    be_rate_change: float
    overlap: float


def compare(
    ls: Stream,
    be: Stream,
    interference: Interference,
    load: Load,
    layouts: Sequence[str] = LAYOUTS,
) -> Iterator[Worth]:
    """Each layout's worth. Layout "none" is always simulated: it is what the others are held to."""
    times = load.arrivals_s(ls)
    plain = simulate(ls, be, interference, times, "none")
    for layout in layouts:
        same = layout == "none"
        outcome = plain if same else simulate(ls, be, interference, times, layout)
        yield _worth(ls.name, be.name, layout, outcome, plain)


def _worth(ls: str, be: str, layout: str, outcome: Outcome, plain: Outcome) -> Worth:
    p99 = percentile(outcome.latencies_s, 0.99)
    return Worth(
        ls,
        be,
        layout,
        p50_ms=percentile(outcome.latencies_s, 0.5) * 1e3,
        p99_ms=p99 * 1e3,
        p99_change=p99 / percentile(plain.latencies_s, 0.99) - 1,
        be_rate_per_s=outcome.be_rate,
        be_rate_change=outcome.be_rate / plain.be_rate - 1,
        overlap=outcome.overlap,
    )


def with_share(stream: Stream, coloured: float) -> Stream:
    """The same with this share of each phase's bytes coloured."""
    return Stream(stream.name, tuple(replace(p, coloured=coloured) for p in stream.phases))
