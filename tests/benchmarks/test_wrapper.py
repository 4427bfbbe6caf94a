"""benchmarks.wrapper: what its summary makes of measurements."""

import numpy as np
import pytest

from benchmarks.wrapper import row, summarise


def test_what_slows_both_sides_of_a_block_is_in_no_figure():
    slowed = np.array([1000.0, 9000.0, 1000.0, 5000.0, 1000.0])
    told = row("passed", {"bare": slowed, "missile": slowed + 200.0})
    assert told["what"] == "passed"
    assert (told["extra_ns"], told["n"]) == (200.0, 5)
    assert (told["bare_us"], told["missile_us"]) == (1.0, 1.2)
    assert told["ratio"] == pytest.approx(1.2)


def test_the_summary_quotes_each_kind_s_own_figure():
    bare = np.full(3, 1e6)
    extra = {"passed": 1.0, "launch": 20.0, "upload 4 KiB": 300.0, "ResNet-50 step": 4000.0}
    rows = [row(what, {"bare": bare, "missile": bare + more}) for what, more in extra.items()]
    assert summarise(rows[::-1]) == {
        "ns_per_call_passed": 1.0,
        "ns_per_call_accounted": 20.0,
        "ns_per_upload": 300.0,
        "resnet50_step_ratio": pytest.approx(1.004),
        "resnet50_step_ms": pytest.approx(1.004),
    }
