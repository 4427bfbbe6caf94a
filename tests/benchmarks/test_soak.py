"""benchmarks.soak: a short run of it, on real threads."""

import pytest

from benchmarks import soak


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_hangs() -> None:
    report = soak.run(seconds=6.0, seed=1)
    assert report.summary["lost"] == 0
    assert report.summary["hung"] == 0
    assert report.summary["staging_blocks_left"] == 0
    ends = {row["what"] for row in report.rows}
    assert {"done", "cancelled", "deadline", "unloaded"} <= ends
