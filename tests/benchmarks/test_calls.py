"""benchmarks.calls: the law's quantiles, its bursts, traces of few functions, load."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.calls import BUSIEST_SHARE, Calls, from_trace, production
from benchmarks.single_server import in_order


def of_busiest_tenth(calls: Calls, functions: int) -> float:
    counts = np.sort(np.bincount(calls.function, minlength=functions))[::-1]
    return counts[: functions // 10].sum() / len(calls)


def test_most_functions_are_called_less_than_once_a_minute() -> None:
    calls = production(200, 20_000, seed=1)
    per_minute = np.bincount(calls.function, minlength=200) / (calls.at_s[-1] / 60)
    assert 0.8 < (per_minute <= 1.0).mean() < 0.9
    assert of_busiest_tenth(calls, 200) == pytest.approx(BUSIEST_SHARE, abs=0.08)
    assert (np.diff(calls.at_s) >= 0).all()


def test_the_law_is_seeded() -> None:
    a, b, other = (production(50, 500, seed) for seed in (3, 3, 4))
    assert np.array_equal(a.at_s, b.at_s)
    assert np.array_equal(a.function, b.function)
    assert not np.array_equal(a.function, other.function)


def test_calls_come_in_bursts() -> None:
    calls = production(100, 10_000, seed=0)
    busiest = np.bincount(calls.function).argmax()
    minutes = (calls.at_s[calls.function == busiest] // 60).astype(int)
    counts = np.bincount(minutes)
    # One for a Poisson process.
    assert counts.var() / counts.mean() > 3


def test_a_load_keeps_one_server_busy_for_that_share() -> None:
    service_s = np.array([0.002, 0.005] * 25)
    calls = production(50, 1000, seed=0).at_load(0.4, service_s)
    assert service_s[calls.function].sum() / calls.at_s[-1] == pytest.approx(0.4)
    assert in_order(calls.at_s, service_s[calls.function]).min() >= 0.002 * (1 - 1e-9)


def test_parts_begin_where_the_one_before_ended() -> None:
    calls = Calls(np.array([1.0, 2.0, 4.0, 7.0]), np.array([0, 1, 2, 3]))
    first, second = calls.parts([2])
    assert first.at_s.tolist() == [1.0, 2.0]
    assert second.at_s.tolist() == [2.0, 5.0]
    assert second.function.tolist() == [2, 3]


def test_a_trace_of_minutes_keeps_its_functions_and_loses_its_peak(tmp_path: Path) -> None:
    minutes = range(1, 31)
    lines = ["HashOwner,HashApp,HashFunction,Trigger," + ",".join(map(str, minutes))]
    lines += [f"a,b,f{k},http," + ",".join("1" for _ in minutes) for k in range(9)]
    lines.append("a,b,hot,http," + ",".join("500" for _ in minutes))
    path = tmp_path / "azure.csv"
    path.write_text("\n".join(lines))
    calls = from_trace(path, 10, 100_000, seed=0)
    counts = np.bincount(calls.function)
    assert len(counts) == 10
    assert counts.max() < 45
    assert (counts == 30).sum() >= 9


def test_a_trace_of_one_stream_is_dealt_to_all_functions(tmp_path: Path) -> None:
    path = tmp_path / "offsets.txt"
    path.write_text("\n".join(str(k) for k in range(1_000_000, 1_000_050)))
    calls = from_trace(path, 8, 1000, seed=0)
    assert np.bincount(calls.function).tolist() == [50] * 8
    assert calls.at_s[-1] <= 0.05
