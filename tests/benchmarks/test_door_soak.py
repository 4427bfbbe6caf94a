"""benchmarks.door_soak: a short run of it, on real servers and clients that are really killed."""

import pytest

from benchmarks import door_soak
from benchmarks.report import Report


def test_nothing_is_left_of_clients_that_are_killed() -> None:
    report = door_soak.run(kills=16, ls_seconds=0.5, seed=1)
    assert report.summary["killed"] == 16
    assert report.summary["answers"] > 0
    assert not door_soak.failed(report), report.summary
    beside = [row["what"] for row in report.rows if row["what"].startswith("LS")]
    assert beside == ["LS beside nobody", "LS beside loris", "LS beside storm", "LS beside bulk"]


@pytest.mark.parametrize("key", [*door_soak.LEFT, "wrong", "failed", "rss_growth_mb"])
def test_what_is_left_or_wrong_fails_the_run(key) -> None:
    kept = dict.fromkeys((*door_soak.LEFT, "wrong", "failed"), 0)
    kept["rss_growth_mb"] = door_soak.GROWTH_MB
    assert not door_soak.failed(Report("door-soak", 0, summary=kept))
    assert door_soak.failed(Report("door-soak", 0, summary=kept | {key: kept[key] + 1}))
