"""benchmarks.door_soak: a short run of it, on a real server and clients that are really killed."""

from benchmarks import door_soak
from benchmarks.report import Report


def test_nothing_is_left_of_clients_that_are_killed(monkeypatch) -> None:
    monkeypatch.setattr(door_soak, "WARM_UP", 0.5)
    report = door_soak.run(kills=16, ls_seconds=0.5, seed=1)
    assert report.summary["killed"] == 16
    assert report.summary["answers"] > 0
    assert not door_soak.failed(report), report.summary
    beside = [row["what"] for row in report.rows if row["what"].startswith("LS")]
    assert beside == ["LS beside nobody", "LS beside loris", "LS beside storm", "LS beside bulk"]


def test_what_is_left_fails_the_run() -> None:
    report = Report("door-soak", 0, summary=dict.fromkeys((*door_soak.LEFT, "wrong", "failed"), 0))
    assert not door_soak.failed(report)
    report.summary["descriptors_left"] = 1
    assert door_soak.failed(report)
