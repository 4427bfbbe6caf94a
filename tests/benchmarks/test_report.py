"""benchmarks.report: the JSON form and its statistics."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.report import Report, p99_interval_ms, percentiles


def test_a_report_has_the_one_form(tmp_path: Path) -> None:
    report = Report("thing", seed=7, simulated=True)
    report.rows.append({"policy": "fifo", "p99_ms": np.float64(1.5)})
    report.summary["p99_ms.10"] = np.float32(2.0)
    report.write(tmp_path / "out" / "thing.json")
    data = json.loads((tmp_path / "out" / "thing.json").read_text())
    assert set(data) == {
        "benchmark", "command", "seconds", "seed", "simulated", "machine", "versions", "rows",
        "summary",
    }  # fmt: skip
    assert data["rows"] == [{"policy": "fifo", "p99_ms": 1.5}]
    assert data["simulated"] is True
    assert data["seconds"] > 0
    assert data["versions"]["jax"]


def test_what_is_no_value_is_not_written(tmp_path: Path) -> None:
    report = Report("thing", 0, rows=[{"bad": object()}])
    with pytest.raises(TypeError, match="object"):
        report.write(tmp_path / "thing.json")
    assert not (tmp_path / "thing.json").exists()


def test_the_interval_holds_the_p99() -> None:
    latencies = np.random.default_rng(0).exponential(0.01, 5000)
    low, high = p99_interval_ms(latencies, seed=0)
    assert low < percentiles(latencies)["p99_ms"] < high
    assert low == pytest.approx(46.05, rel=0.2)
