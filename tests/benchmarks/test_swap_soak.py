"""benchmarks.swap_soak: a tenth of it."""

import pytest

from benchmarks import swap_soak


@pytest.mark.slow
def test_every_answer_is_right() -> None:
    report = swap_soak.run(operations=10_000, seed=1)
    assert report.summary["operations"] >= 10_000
    assert report.summary["wrong"] == report.summary["failed"] == 0
    ends = {row["what"] for row in report.rows}
    assert {"right", "evicted", "in use or not there", "not loaded"} <= ends
    assert report.summary["swap_ins"] > 1_000
