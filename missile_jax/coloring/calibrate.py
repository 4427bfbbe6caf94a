"""Thresholds between fast and slow, from histograms of timings whose answer is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from missile_jax.coloring.maps import PAGE_BYTES
from missile_jax.coloring.oracle import SET_LIMIT, Probes
from missile_jax.errors import RecoveryError

# Timings of each known case.
_SAMPLES = 48
_PAIRS = 200
# Of FGPU (RTAS 2019): slower than this many times the mean is a bank conflict, and what is slower
# than that many times the mean says nothing.
_CONFLICT = 1.1
_DROPPED = 5.0
# A threshold lies at least this many standard deviations from either side.
_DEVIATIONS = 3.0
_MOST_WRONG = 0.25
# So few samples do not show less; and spikes that come on top are seen on one side only.
_LEAST_WRONG = 0.06
# No clock is better.
_LEAST_JITTER = 1e-3


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the timings of this machine look like.

    alone_us: a round of one address with nothing loaded. queue_us: by how much more it takes while
    everything streams its channel. jitter: standard deviation as a share of the time. wrong: share
    of timings on the wrong side. loaded_limit: channels that may be loaded at once for a conflict
    to be told from jitter. latency_ns: of a pair that does not conflict.
    """

    alone_us: float
    queue_us: float
    jitter: float
    wrong: float
    loaded_limit: int
    latency_ns: float

    def slow_round_us(self, base_us: float, loaded: int) -> float:
        """Longer is a conflict, where `base_us` is the round without one."""
        return base_us + self.queued_us(max(loaded, 1)) / 2

    def queued_us(self, loaded: int) -> float:
        """How long an access queues where `loaded` channels share the streams.

        The streams have a fixed number of accesses in flight, each of which takes alone_us or until
        its channel has served all others in it: the rest of that is queueing.
        """
        return (self.queue_us + self.alone_us) / loaded - self.alone_us

    @property
    def dropped_us(self) -> float:
        """Longer says nothing."""
        return _DROPPED * (self.alone_us + self.queue_us)

    @property
    def slow_pair_ns(self) -> float:
        return _CONFLICT * self.latency_ns

    @property
    def dropped_ns(self) -> float:
        return _DROPPED * self.latency_ns


def calibrate(probes: Probes, rng: np.random.Generator) -> Calibration:
    """Raises RecoveryError if loading its own channel does not slow an address down, or if too
    many timings are on the wrong side."""
    probes.doing = "calibrating"
    places = rng.integers(probes.pages * PAGE_BYTES // 256, size=(_SAMPLES, 2)) * 256
    alone = np.array([probes.round_us([], [int(a)]) for a, _ in places])
    # An address and its neighbour in the same 256 bytes share a channel in every map.
    beside = np.array([probes.round_us([int(a)], [int(a) + 128]) for a, _ in places])
    alone_us, beside_us = float(np.median(alone)), float(np.median(beside))
    # Half of all are nearer than this; of a normal distribution those within 0.6745 deviations.
    jitter = float(np.median(np.abs(alone - alone_us))) / 0.6745 / alone_us
    jitter = max(jitter, _LEAST_JITTER)
    queue_us = beside_us - alone_us
    if queue_us < 2 * _DEVIATIONS * jitter * alone_us:
        raise RecoveryError(
            f"an address takes {alone_us:.4g} us alone and {beside_us:.4g} us while its own "
            f"channel is loaded, at a jitter of {jitter:.1%}: too little to tell channels apart"
        )
    middle = alone_us + queue_us / 2
    mistaken = int((alone > middle).sum() + (beside < middle).sum())
    wrong = (mistaken + 1) / (2 * _SAMPLES + 2)
    if wrong > _MOST_WRONG:
        raise RecoveryError(
            f"{mistaken} of {2 * _SAMPLES} timings of known cases were on the wrong side: at most "
            f"{_MOST_WRONG:.0%} may be"
        )
    # Where queued_us is still twice that many deviations.
    limit = (queue_us + alone_us) / (alone_us * (1 + 2 * _DEVIATIONS * jitter))
    pairs = rng.integers(probes.pages * PAGE_BYTES // 256, size=(_PAIRS, 2)) * 256
    latencies = np.array([probes.latency_ns(int(a), int(b)) for a, b in pairs])
    latency_ns = float(np.mean(latencies[latencies < _DROPPED * np.median(latencies)]))
    # Spikes raise the mean; the median is what most pairs take.
    latency_ns = min(latency_ns, float(np.median(latencies)) * 1.01)
    return Calibration(
        alone_us=alone_us,
        queue_us=queue_us,
        jitter=jitter,
        wrong=max(wrong, _LEAST_WRONG),
        loaded_limit=int(min(SET_LIMIT, limit)),
        latency_ns=latency_ns,
    )
