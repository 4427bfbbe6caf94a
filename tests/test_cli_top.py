"""`missile top`: what it tells of two looks at a tenant, and of a live one."""

import os
import signal
from contextlib import suppress
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from benchmarks.arbiter_processes import arbiters
from missile_jax._native import Tenant
from missile_jax.arbiter import TenantFigures
from missile_jax.cli import app
from missile_jax.cli import top as cli_top

BEFORE = TenantFigures(
    pid=42, name="train", latency=False, weight=1.0, holds=False, in_flight=0, wanting=0,
    joined_ns=0, now_ns=10 * 10**9, held_ns=0, launches=100, waits=10, waited_ns=10**9,
    busy_ns=10**9, longest_ns=12_340_000, memory_bytes=0, memory_peak_bytes=0,
    memory_limit_bytes=0,
)  # fmt: skip
AFTER = replace(
    BEFORE, now_ns=12 * 10**9, launches=140, waits=14, waited_ns=1_020_000_000,
    busy_ns=1_500_000_000, wanting=2, weight=2.5, holds=True, memory_bytes=3 * 2**20,
    memory_peak_bytes=5 * 2**20, memory_limit_bytes=2**30,
)  # fmt: skip


def cells(one, before) -> dict[str, str]:
    """By the heads of their columns."""
    table = cli_top._table("cpu", [one], {} if before is None else {before.joined_ns: before})
    return {str(column.header): "".join(map(str, column.cells)) for column in table.columns}


def test_a_row_tells_what_was_between_two_looks():
    assert cells(AFTER, BEFORE) == {
        "tenant": "train *",
        "class": "best-effort",
        "pid": "42",
        "weight": "2.5",
        "share": "25 %",
        "memory": "3 MiB",
        "peak": "5 MiB",
        "limit": "1024 MiB",
        "launches/s": "20.0",
        "longest": "12.3 ms",
        "waiting": "2",
        "waits/s": "2.0",
        "mean wait": "5.0 ms",
    }


def test_a_row_of_the_first_look_tells_what_was_since_the_tenant_came():
    row = cells(replace(BEFORE, latency=True, joined_ns=5 * 10**9), None)
    assert (row["class"], row["share"], row["launches/s"]) == ("latency", "20 %", "20.0")
    assert (row["waits/s"], row["mean wait"]) == ("2.0", "100.0 ms")


def test_what_there_is_none_of_is_a_dash():
    row = cells(replace(BEFORE, now_ns=11 * 10**9), BEFORE)
    assert (row["share"], row["launches/s"], row["mean wait"]) == ("0 %", "0.0", "-")
    assert (row["memory"], row["limit"]) == ("-", "-")


def test_two_looks_at_one_moment_divide_by_no_zero():
    assert cells(BEFORE, BEFORE)["launches/s"] == "0.0"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield
    for pid in arbiters(tmp_path):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_it_looks_again_until_it_is_interrupted(folder, monkeypatch):
    busy, idle = Tenant(device="cpu", name="busy", latency=True), Tenant(device="cpu", name="idle")
    slept = []

    def launch(*tenants: Tenant) -> None:
        for tenant in tenants:
            for _ in range(5):
                tenant.leave(tenant.enter())

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt
        launch(busy)

    launch(busy, idle)
    monkeypatch.setattr(cli_top.time, "sleep", sleep)
    told = CliRunner().invoke(app, ["top", "--interval", "0.25"], env={"COLUMNS": "160"})
    assert (told.exit_code, slept) == (0, [0.25, 0.25])
    lines = [line.replace(" %", "%").replace(" ms", "ms") for line in told.stdout.splitlines()]
    rows = {words[0]: words for words in map(str.split, lines) if words[0] in ("busy", "idle")}
    assert rows["busy"][:4] == ["busy", "latency", str(os.getpid()), "1"]
    # Only one of them had launches between the two looks. A name may have a star behind it.
    rates = {name: float(row[-5]) for name, row in rows.items()}
    assert rates["busy"] > 0.0
    assert rates["idle"] == 0.0
