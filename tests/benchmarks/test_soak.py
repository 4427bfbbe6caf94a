"""benchmarks.soak: a short run of it, on real threads; what it fails by."""

from typing import Any

import numpy as np
import pytest

from benchmarks import soak
from benchmarks.growth import allocated_mb, growth

CLEAN: dict[str, Any] = {
    "lost": 0,
    "hung": 0,
    "staging_blocks_left": 0,
    "growth_judged": True,
    "allocated_growth_mb_per_minute": soak.ALLOCATED_MB_PER_MINUTE,
    "allocated_growth_limit_mb_per_minute": soak.ALLOCATED_MB_PER_MINUTE,
    "rss_growth_mb_per_minute": soak.RSS_MB_PER_MINUTE,
    "rss_growth_limit_mb_per_minute": soak.RSS_MB_PER_MINUTE,
}


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_hangs() -> None:
    report = soak.run(seconds=6.0, seed=1)
    assert not soak.faults(report.summary)
    assert not report.summary["growth_judged"]
    ends = {row["what"] for row in report.rows}
    assert {"done", "cancelled", "deadline", "unloaded"} <= ends


@pytest.mark.parametrize("what", ["lost", "hung", "staging_blocks_left"])
def test_anything_lost_hung_or_left_is_a_fault(what: str) -> None:
    assert not soak.faults(CLEAN)
    assert soak.faults(CLEAN | {what: 3}) == [f"{what}: 3"]


@pytest.mark.parametrize(("what", "limit"), [("allocated", 4), ("rss", 20)])
def test_memory_that_grows_is_a_fault_of_a_run_that_is_long_enough(what: str, limit: int) -> None:
    leaking = CLEAN | {f"{what}_growth_mb_per_minute": limit + 0.5}
    assert soak.faults(leaking) == [
        f"{what} grew by {limit + 0.5} MB a minute, allowed are {limit}"
    ]
    assert not soak.faults(leaking | {"growth_judged": False})


def test_growth_is_that_of_the_second_half() -> None:
    # Resident: 60 MB a minute while caches fill, then 6. Allocated: 3, and 5 MB more but for a few.
    first = [(t, 100.0 + t, 50.0 + t) for t in range(50)]
    second = [
        (t, 150.0 + (t - 50) / 10, 90.0 + t / 20 + (5.0 if t % 5 else 0.0)) for t in range(50, 100)
    ]
    found = growth([*first, *second], 100.0)
    assert found["rss_growth_mb_per_minute"] == pytest.approx(6.0)
    assert found["rss_warm_mb"] == pytest.approx(150.2)
    assert found["rss_end_mb"] == pytest.approx(154.7)
    assert found["allocated_growth_mb_per_minute"] == pytest.approx(3.0)


def test_allocated_memory_is_what_nobody_has_freed() -> None:
    before = allocated_mb()
    block = np.ones(32 * 2**20, np.uint8)
    with_it = allocated_mb()
    assert with_it - before == pytest.approx(32, abs=8)
    del block
    assert with_it - allocated_mb() == pytest.approx(32, abs=8)
