"""benchmarks.colocation: the figures that it makes of what it measured."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import colocation
from benchmarks.colocation import LOADS, Measured, Turn, longest_best_effort_ns, summarise
from missile_jax import LaunchRecord, Missile

COMMITTED = Path(__file__).parents[2] / "benchmarks" / "results" / "colocation.json"
POLICIES = ("fifo", "missile")
MIXES = ("light", "heavy")
ALONE = {"net": 50.0, "other": 20.0}
SERVICE_S = 0.01


def turn(
    p99_ms: float, rates: dict[str, float], *, seconds: float = 20.0, longest_ms: float = 0.0
) -> Turn:
    """200 requests that all took as long, so that any percentile is that."""
    latencies = np.full(200, p99_ms / 1e3)
    late = np.full(200, 0.001)
    return Turn(latencies, late, seconds, SERVICE_S, rates, round(longest_ms * 1e6))


def p99_ms(policy: str, mix: str, load: int) -> float:
    """Mixes take turns at being the worse one."""
    worse = (mix == "heavy") == (load == 30)
    return load + {"fifo": 100.0, "missile": 0.0}[policy] + (5.0 if worse else 0.0)


@pytest.fixture
def measured() -> Measured:
    found = Measured(service_s=[0.010, 0.010, 0.020], longest_segment_ms=12.0)
    found.alone_rates |= {name: [rate - 1, rate + 1] for name, rate in ALONE.items()}
    for load in LOADS:
        found.turns["ideal", "", load] = [
            Turn(np.full(200, 0.1 * load / 1e3), np.zeros(0), 20.0, SERVICE_S, {}, 0)
        ]
        found.turns["alone", "", load] = [turn(0.2 * load, {})]
        for policy in POLICIES:
            for mix in MIXES:
                rates = {"net": 10.0} if mix == "light" else {"net": 10.0, "other": 8.0}
                longest_ms = load + {"light": 1.0, "heavy": 2.0}[mix]
                found.turns[policy, mix, load] = [
                    turn(p99_ms(policy, mix, load), rates, longest_ms=longest_ms)
                ]
    return found


def test_every_figure_is_the_worst_over_the_mixes(measured: Measured) -> None:
    report, raw = summarise(measured, POLICIES, seed=0)
    summary = report.summary
    for load in LOADS:
        assert summary[f"ls_p99_ideal_ms.{load}"] == pytest.approx(0.1 * load)
        assert summary[f"ls_p99_alone_ms.{load}"] == pytest.approx(0.2 * load)
        assert summary[f"ls_p99_limit_ms.{load}"] == pytest.approx(0.125 * load + 2.0)
        for policy in POLICIES:
            worst = max(p99_ms(policy, mix, load) for mix in MIXES)
            assert summary[f"ls_p99_ms.{policy}.{load}"] == pytest.approx(worst)
            assert summary[f"be_items_per_s.{policy}.{load}"] == 10.0
    assert summary["longest_segment_ms"] == 12.0
    assert {p: summary[f"longest_be_launch_ms.{p}"] for p in POLICIES} == dict.fromkeys(
        POLICIES, LOADS[-1] + 2.0
    )
    assert summary["ls_service_ms"] == pytest.approx(10.0)
    assert summary["sent_late_p99_ms"] == pytest.approx(1.0)
    assert summary["be_alone_items_per_s.net"] == 50.0
    assert set(raw) == {
        f"{row['policy']}.{row['mix']}.{row['load_percent']}" for row in report.rows
    }
    assert len(raw["missile.heavy.60"]) == 200


def test_the_share_is_of_what_latency_sensitive_work_leaves(measured: Measured) -> None:
    # 200 requests of 10 ms in 20 s take a tenth; 10 of 50 items/s and 8 of 20 are 0.2 + 0.4.
    report, _ = summarise(measured, POLICIES, seed=0)
    shares = {
        (row["policy"], row["mix"]): row["be_share_of_leftover"]
        for row in report.rows
        if row["load_percent"] == 10 and row["mix"]
    }
    assert shares["missile", "heavy"] == pytest.approx(0.6 / 0.9)
    assert shares["missile", "light"] == pytest.approx(0.2 / 0.9)
    assert report.summary["be_share_of_leftover.missile.10"] == pytest.approx(0.2 / 0.9)


def test_repeats_are_averaged_each_by_its_own_leftover(measured: Measured) -> None:
    measured.turns["missile", "light", 60] = [
        turn(10.0, {"net": 20.0}, seconds=4.0, longest_ms=3.0),
        turn(30.0, {"net": 40.0}, seconds=8.0, longest_ms=7.0),
    ]
    report, raw = summarise(measured, POLICIES, seed=0)
    (row,) = [
        r
        for r in report.rows
        if (r["policy"], r["mix"], r["load_percent"]) == ("missile", "light", 60)
    ]
    assert row["be_share_of_leftover"] == pytest.approx((0.4 / 0.5 + 0.8 / 0.75) / 2)
    assert row["be_items_per_s"] == 30.0
    assert row["longest_be_launch_ms"] == 7.0
    assert row["requests"] == len(raw["missile.light.60"]) == 400


def test_a_device_that_is_full_leaves_a_little() -> None:
    assert turn(1.0, {}, seconds=1.0).leftover() == 0.01


def test_the_longest_launch_is_best_effort_and_of_the_time_that_counts() -> None:
    def launch(model: str, start_ms: int, end_ms: int) -> LaunchRecord:
        return LaunchRecord(model, model == "ls", -1, 1, start_ms * 10**6, end_ms * 10**6)

    launches = [
        launch("be", 0, 900),  # over before it
        launch("be", 980, 1030),  # across its start
        launch("ls", 1040, 1500),
        launch("be", 1100, 1140),
        launch("be", 2000, 2800),  # behind it
    ]
    assert longest_best_effort_ns(launches, 1.0, 2.0) == 50 * 10**6
    assert longest_best_effort_ns(launches[2:3], 1.0, 2.0) == 0


def test_waiting_and_beside_are_the_same_policy_else() -> None:
    cut, after = (colocation._MAKE[name] for name in ("missile-cut", "missile-after"))
    assert (cut, after) == (Missile(yielding=False), Missile(yielding=False, beside=False))
    assert not cut.yields
    assert not after.yields


# Measured anew with the next full run: the mark goes then.
_NEWER = pytest.mark.xfail(reason="the committed run is older than this figure", strict=True)


@pytest.mark.parametrize(
    "prefix",
    [
        "ls_p99_ideal_ms.",
        "ls_p99_alone_ms.",
        "ls_p99_limit_ms.",
        "ls_p99_ms.",
        "be_items_per_s.",
        "be_share_of_leftover.",
        "longest_segment_ms",
        pytest.param("longest_be_launch_ms.", marks=_NEWER),
        "ls_service_ms",
        "sent_late_p99_ms",
    ],
)
def test_the_committed_run_has_what_a_run_writes(measured: Measured, prefix: str) -> None:
    policies = colocation.POLICIES
    for load in LOADS:
        for policy in policies:
            measured.turns[policy, "light", load] = [turn(1.0, {"net": 1.0})]
    written = {k for k in summarise(measured, policies, 0)[0].summary if k.startswith(prefix)}
    assert written
    assert written <= set(json.loads(COMMITTED.read_text())["summary"])


def test_each_figure_of_the_committed_run_has_a_thousand_requests() -> None:
    rows = json.loads(COMMITTED.read_text())["rows"]
    assert {(row["policy"], row["load_percent"]) for row in rows} == {
        (policy, load) for policy in ("ideal", "alone", *colocation.POLICIES) for load in LOADS
    }
    assert min(row["requests"] for row in rows) >= 1000
