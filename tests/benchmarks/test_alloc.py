"""benchmarks.alloc: a short run of it, and its plot."""

from pathlib import Path

from benchmarks import alloc
from benchmarks.plots import plot_alloc


def test_calls_and_requests_are_counted_and_drawn(tmp_path: Path) -> None:
    report = alloc.run(uses=150, requests=20, seed=1)
    rows = {row["what"]: row for row in report.rows if "what" in row}
    assert rows["allocate"]["n"] > rows["release"]["n"] > 0
    assert rows["allocate"]["n"] > rows["make room"]["n"] == rows["after room"]["n"] > 0
    resident, swapped = rows["request, resident"], rows["request, swapped"]
    assert (resident["n"], swapped["n"]) == (20, 20)
    assert (resident["swap_ins"], swapped["swap_ins"]) == (0, 1)
    assert resident["minor_faults"] >= 0
    summary = report.summary
    assert summary["native_allocations"] == summary["request_native_allocations"] == 0
    # What no full group fits into is never the largest hole, where one does fit.
    assert 0 <= summary["fragmentation"] <= 1
    assert 0 < summary["external_fragmentation"] < 1
    report.write(tmp_path / "alloc.json")
    picture = plot_alloc(tmp_path / "alloc.json")
    assert picture == tmp_path / "alloc.png"
    assert picture.stat().st_size > 10_000
