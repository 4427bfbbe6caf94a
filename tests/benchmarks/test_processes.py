"""benchmarks.processes: what its summary makes of measurements."""

import sys
import time
from pathlib import Path

import pytest

from benchmarks.processes import COUNTS, KINDS, LENGTHS, SYSTEMS, Child, settings, summarise
from missile_jax.errors import ConfigError

ALONE_P99_MS = {"short": 20.0, "long": 40.0}


def measured(system: str, length: str, processes: int, p99_ms: float, share: float) -> dict:
    return {"system": system, "launches": length, "processes": processes, "p99_ms": p99_ms,
            "be_share_of_leftover": share}  # fmt: skip


def rows() -> list[dict]:
    """Each system's tail grows with the processes beside it; its share of the rest shrinks."""
    found = []
    for length in LENGTHS:
        for count in COUNTS:
            found.append(measured("alone", length, count, ALONE_P99_MS[length], 0.0))
            for k, system in enumerate(SYSTEMS):
                p99_ms = ALONE_P99_MS[length] * (1 + k + count / 10)
                found.append(measured(system, length, count, p99_ms, 1 - count / 10 - k / 100))
    return found


def steps_s() -> dict[tuple[str, int], list[float]]:
    """Process 2 is the slowest; one step in fifty takes ten times as long."""
    base = {"short": 0.0005, "long": 0.004}
    return {
        (length, k): [base[length] * (2 if k == 2 else 1)] * 98 + [base[length] * 20] * 2
        for length in LENGTHS
        for k in range(len(KINDS))
    }


def test_a_system_has_its_worst_over_all_counts_against_the_same_arrivals_alone():
    summary = summarise(rows(), [0.005, 0.004, 0.03], steps_s(), list(SYSTEMS))
    for k, system in enumerate(SYSTEMS):
        for suffix in (system, f"{system}.short", f"{system}.long"):
            assert summary[f"ls_p99_vs_alone.{suffix}"] == pytest.approx(1 + k + 0.4)
            assert summary[f"be_share_of_leftover.{suffix}"] == pytest.approx(0.6 - k / 100)
    assert summary["ls_p99_alone_ms"] == pytest.approx(30.0)


def test_one_length_s_worst_is_the_system_s_and_not_the_other_length_s():
    found = rows()
    for row in found:
        if (row["system"], row["launches"], row["processes"]) == ("missile", "long", 1):
            row |= {"p99_ms": 400.0, "be_share_of_leftover": 0.1}
    summary = summarise(found, [0.005], steps_s(), ["missile"])
    assert summary["ls_p99_vs_alone.missile"] == summary["ls_p99_vs_alone.missile.long"] == 10.0
    assert summary["be_share_of_leftover.missile"] == 0.1
    assert summary["ls_p99_vs_alone.missile.short"] < 10.0
    assert summary["be_share_of_leftover.missile.short"] > 0.1
    assert not [key for key in summary if "nice19" in key]


def test_a_step_alone_is_the_slowest_process_s_median_against_a_request_s():
    summary = summarise(rows(), [0.005, 0.004, 0.03], steps_s(), list(SYSTEMS))
    assert summary["ls_service_ms"] == pytest.approx(5.0)
    assert summary["be_step_alone_ms.short"] == pytest.approx(1.0)
    assert summary["be_step_alone_p99_ms.short"] == pytest.approx(10.0)
    assert summary["be_step_vs_ls.short"] == pytest.approx(0.2)
    assert summary["be_step_vs_ls.long"] == pytest.approx(1.6)


def test_a_system_that_there_is_none_of_is_named():
    with pytest.raises(ConfigError, match=r"systems \['mps'\] are unknown; known: \['uncontr"):
        settings(quick=True, seed=0, systems=["missile", "mps"], wrap=None)


def test_a_best_effort_process_tells_when_its_steps_ran():
    plugin = Path(sys.prefix) / "pjrt/lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so"
    if not plugin.exists():
        pytest.fail(f"{plugin} is missing; `make test` installs it there")
    child = Child("process_be.py", ["infer"], ["--no-arbiter"], (), plugin)
    try:
        assert child.hear() == {"ready": True}
        for length in LENGTHS:
            end, ran = time.monotonic() + 60.0, []
            while not ran:  # It may be stopped before its first step.
                assert time.monotonic() < end
                child.tell({"run": length})
                ran = child.ask({"stop": True})["ran"]
            times = [moment for step in ran for moment in step]
            assert times == sorted(times)
            assert times[-1] < time.monotonic()
    finally:
        child.close()
