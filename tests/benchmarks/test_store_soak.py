"""benchmarks.store_soak: a tenth of it, with real writers that are really killed."""

import pytest
from rich.console import Console

from benchmarks import store_soak


@pytest.mark.slow
def test_nothing_is_torn_and_every_flip_is_found() -> None:
    summary = store_soak.run(kills=20, flips=20, seed=1, console=Console(quiet=True)).summary
    assert summary["kills"] >= summary["kills_during_write"] == 20
    assert summary["ended_old"] + summary["ended_new"] == 20
    assert summary["torn"] == 0
    assert summary["leftovers"] >= 1
    assert summary["leftovers_not_removed"] == 0
    assert summary["flips_found"] == 20
