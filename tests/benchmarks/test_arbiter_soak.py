"""benchmarks.arbiter_soak: a tenth of it, with processes that are really killed."""

import sys
from pathlib import Path

import pytest

from benchmarks import arbiter_soak
from benchmarks.arbiter_greedy import grown
from benchmarks.report import Report

PLUGIN = Path(sys.prefix) / "pjrt/lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so"


def test_nothing_stalls_and_nothing_is_left() -> None:
    if not PLUGIN.exists():
        pytest.fail(f"{PLUGIN} is missing; `make test` installs it there")
    report = arbiter_soak.run(kills=10, over_cap=100, hostile_s=0.5, seed=1, wrap=PLUGIN)
    summary = report.summary
    assert summary["be_killed"] == summary["arbiter_killed"] == 10
    assert summary["hostile_pages"] > 0
    left = [key for key in summary if key.endswith("_left")]
    assert len(left) == 4
    assert [summary[key] for key in left] == [0, 0, 0, 0]
    assert summary["ls_requests"] > 90
    assert summary["over_cap_refused"] == summary["over_cap"] == 100
    kinds = {key.partition(".")[2] for key in summary if key.startswith("objects_")}
    wrapped = {"tenants", "placements", "records", "launches", "executables", "managers", "reads"}
    assert kinds == wrapped
    assert {kind: summary[f"objects_left.{kind}"] for kind in kinds} == dict.fromkeys(kinds, 0)
    # Each round uploads, and launches four times with what is refused.
    assert summary["objects_made.placements"] > 200
    assert summary["objects_made.launches"] > 300
    assert summary["objects_made.executables"] == 4


def test_only_what_there_is_more_of_has_grown() -> None:
    before = {"launches": (10, 2), "records": (5, 1), "managers": (0, 0)}
    after = {"launches": (30, 1), "records": (9, 4), "managers": (0, 0)}
    assert grown(before, after) == {"records": 3}


GOOD = {
    "ls_stall_ms_max": 5.0,
    "grant_back_ms_max": 1.0,
    "tenants_left": 0,
    "arbiters_left": 0,
    "descriptors_left": 0,
    "maps_left": 0,
    "over_cap": 3,
    "over_cap_refused": 3,
    "objects_made.launches": 3,
    "objects_left.launches": 0,
    "objects_left.records": 0,
}


@pytest.mark.parametrize(
    ("key", "value"),
    [("ls_stall_ms_max", 200.0), ("grant_back_ms_max", 101.0), ("over_cap_refused", 2)]
    + [(key, 1) for key in GOOD if key.endswith("_left") or key.startswith("objects_left.")],
)
def test_what_is_left_or_late_fails_the_run(key, value) -> None:
    assert not arbiter_soak.failed(Report("arbiter-soak", 0, summary=GOOD))
    assert arbiter_soak.failed(Report("arbiter-soak", 0, summary=GOOD | {key: value}))
