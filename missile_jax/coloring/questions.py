"""Yes-or-no questions, each asked until the answer is sure enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from missile_jax.coloring.calibrate import Calibration
from missile_jax.coloring.maps import PAGE_BYTES
from missile_jax.coloring.oracle import Probes
from missile_jax.errors import RecoveryError

# Odds of a wrong answer, unless a caller asks for others.
SURE = 1e-5
# A question that stays open for so long is no question of noise.
_MOST_REPEATS = 400


class Questions:
    """Asks `probes` by the thresholds of `calibration`.

    used: granules (by address // granule_bytes) that were asked about, so that a check can do with
    others; kept from the time on that granule_bytes is known.
    """

    def __init__(self, probes: Probes, calibration: Calibration, rng: np.random.Generator) -> None:
        self.probes = probes
        self.calibration = calibration
        self.rng = rng
        self.granule_bytes = PAGE_BYTES
        self.used: set[int] = set()
        wrong = calibration.wrong
        self.weight = math.log((1 - wrong) / wrong)
        # Rounds of (addresses, most of them in one channel) with nothing loaded.
        self._rounds_us: dict[tuple[int, int], float] = {}

    def share_once(self, loaded: Sequence[int], measured: Sequence[int], crowd: int = 1) -> bool:
        """One timing's word on whether any of `measured` is in a channel of one of `loaded`.

        loaded: at most calibration.loaded_limit addresses. crowd: how many of `measured` are in one
        channel at most, as far as is known.
        """
        self._use(measured)
        limit_us = self.calibration.slow_round_us(self._base_us(measured, crowd), len(loaded))
        return self._kept_round_us(loaded, measured) > limit_us

    def share(
        self,
        loaded: Sequence[int],
        measured: Sequence[int],
        crowd: int = 1,
        sure: float = SURE,
        prior: float = 0.5,
    ) -> bool:
        """Whether any of `measured` is in a channel of one of `loaded` (any number of them).

        sure: odds of a wrong answer. prior: probability of yes before anything is asked.
        """
        step = self.calibration.loaded_limit
        return any(
            self._decide(
                lambda part=loaded[i : i + step]: self.share_once(part, measured, crowd),
                sure,
                prior,
            )
            for i in range(0, len(loaded), step)
        )

    def conflict_once(self, first: int, second: int) -> bool:
        """One timing's word on whether two addresses are in one bank and in different rows."""
        self._use((first, second))
        for _ in range(_MOST_REPEATS):
            latency_ns = self.probes.latency_ns(first, second)
            if latency_ns < self.calibration.dropped_ns:
                return latency_ns > self.calibration.slow_pair_ns
        raise RecoveryError(f"every latency is over {self.calibration.dropped_ns:.0f} ns")

    def conflict(self, first: int, second: int, prior: float = 0.5) -> bool:
        return self._decide(lambda: self.conflict_once(first, second), SURE, prior)

    def _use(self, addresses: Sequence[int]) -> None:
        if self.granule_bytes < PAGE_BYTES:
            self.used.update(address // self.granule_bytes for address in addresses)

    def _decide(self, ask, sure: float, prior: float) -> bool:
        """A sequential probability ratio test (Wald 1945)."""
        odds = math.log(prior / (1 - prior))
        bound = -math.log(sure)
        for _ in range(_MOST_REPEATS):
            odds += self.weight if ask() else -self.weight
            if abs(odds) >= bound:
                return odds > 0
        raise RecoveryError(
            f"{_MOST_REPEATS} timings of one question contradict each other while "
            f"{self.probes.doing}: the thresholds do not fit this memory"
        )

    def _kept_round_us(self, loaded: Sequence[int], measured: Sequence[int]) -> float:
        for _ in range(_MOST_REPEATS):
            taken_us = self.probes.round_us(loaded, measured)
            if taken_us < self.calibration.dropped_us:
                return taken_us
        raise RecoveryError(f"every round takes over {self.calibration.dropped_us:.3g} us")

    def _base_us(self, measured: Sequence[int], crowd: int) -> float:
        if len(measured) == 1:
            return self.calibration.alone_us
        key = len(measured), crowd
        if key not in self._rounds_us:
            rounds = [self.probes.round_us([], measured) for _ in range(5)]
            self._rounds_us[key] = float(np.median(rounds))
        return self._rounds_us[key]
