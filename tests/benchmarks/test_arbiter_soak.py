"""benchmarks.arbiter_soak: a tenth of it, with processes that are really killed."""

import pytest

from benchmarks import arbiter_soak
from benchmarks.report import Report


def test_nothing_stalls_and_nothing_is_left() -> None:
    report = arbiter_soak.run(kills=10, over_cap=0, hostile_s=0.5, seed=1, wrap=None)
    summary = report.summary
    assert summary["be_killed"] == summary["arbiter_killed"] == 10
    assert summary["hostile_pages"] > 0
    left = [key for key in summary if key.endswith("_left")]
    assert len(left) == 4
    assert [summary[key] for key in left] == [0, 0, 0, 0]
    assert summary["ls_requests"] > 90


GOOD = {
    "ls_stall_ms_max": 5.0,
    "grant_back_ms_max": 1.0,
    "tenants_left": 0,
    "arbiters_left": 0,
    "descriptors_left": 0,
    "maps_left": 0,
    "over_cap": 3,
    "over_cap_refused": 3,
}


@pytest.mark.parametrize(
    ("key", "value"),
    [("ls_stall_ms_max", 200.0), ("grant_back_ms_max", 101.0), ("over_cap_refused", 2)]
    + [(key, 1) for key in GOOD if key.endswith("_left")],
)
def test_what_is_left_or_late_fails_the_run(key, value) -> None:
    assert not arbiter_soak.failed(Report("arbiter-soak", 0, summary=GOOD))
    assert arbiter_soak.failed(Report("arbiter-soak", 0, summary=GOOD | {key: value}))
