"""Timings that a real GPU takes of its memory."""

import jax
import numpy as np
import pytest

from missile_jax.coloring.gpu import cuda_oracle

pytestmark = pytest.mark.gpu


def test_an_address_is_slower_beside_its_own_channel(gpu: jax.Device) -> None:
    oracle = cuda_oracle(gpu.local_hardware_id, pages=4)
    alone = np.median([oracle.set_throughput([], [0]) for _ in range(20)])
    beside = np.median([oracle.set_throughput([0], [128]) for _ in range(20)])
    assert beside < 0.8 * alone


def test_latencies_come_from_dram_and_from_the_l2(gpu: jax.Device) -> None:
    oracle = cuda_oracle(gpu.local_hardware_id, pages=4)
    pairs = [oracle.pair_latency_ns(0, 256 * k) for k in range(4, 200)]
    hits = [oracle.l2_latency_ns(256 * k) for k in range(200)]
    assert np.median(pairs) > np.median(hits) > 0
