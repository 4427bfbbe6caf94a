"""benchmarks.door_soak: what it calls a failure. `make soak` runs it."""

import pytest

from benchmarks import door_soak
from benchmarks.report import Report


@pytest.mark.parametrize("key", [*door_soak.LEFT, "wrong", "failed"])
def test_what_is_left_or_wrong_fails_the_run(key) -> None:
    summary = dict.fromkeys((*door_soak.LEFT, "wrong", "failed"), 0)
    assert not door_soak.failed(Report("door-soak", 0, summary=summary))
    assert door_soak.failed(Report("door-soak", 0, summary=summary | {key: 1}))
