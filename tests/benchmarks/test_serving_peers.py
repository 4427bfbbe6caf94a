"""benchmarks.serving: its figures, in turns, and what becomes of a server that does not come up."""

import dataclasses
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import serving
from benchmarks.contenders import REQUIREMENTS, contenders
from benchmarks.generator import Generator, Job
from benchmarks.report import Report

SHORT = serving.Settings(0, 1, 0.05, 1, 0.5, (), ("http",))
QUIET = Console(quiet=True)


def test_both_run_long_enough_for_a_p99() -> None:
    for quick in (True, False):
        chosen = serving.settings(quick, 0, (), ())
        assert chosen.ls_rounds * chosen.ls_seconds * serving.LS_RATE_PER_S >= 1000


def test_what_it_asks_by_default_is_installed_with_it() -> None:
    document = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    (extras,) = [p for p in document["project"]["optional-dependencies"]["bench"] if "[" in p]
    assert "grpc" in extras.partition("[")[2].rstrip("]").split(",")


def test_every_peer_has_pinned_versions_and_a_form_for_each_protocol_it_speaks() -> None:
    for peer, wanted in REQUIREMENTS.items():
        assert "==" in wanted[0]
        labels = [c.label for c in contenders([peer], ["http", "grpc"]) if c.name == peer]
        assert labels
        assert Path(serving.__file__).with_name("peers").joinpath(f"{peer}.py").exists()


def test_the_door_and_the_runtime_have_turns_beside_the_same_load(monkeypatch) -> None:
    monkeypatch.setattr(serving, "KINDS", {"bulk": 64})
    turns = []

    def beside(kind, port):
        turns.append(kind)
        return real(kind, port)

    real = serving.beside
    monkeypatch.setattr(serving, "beside", beside)
    report = Report("serving", 0)
    with Generator() as generator:
        serving._latencies(report, SHORT, generator, QUIET)
    rows = {row["what"]: row for row in report.rows}
    assert set(rows) == {"door beside nobody", "door beside bulk", "runtime beside bulk"}
    for row in rows.values():
        assert row["n"] == 50
        assert row["errors"] == 0
        assert 0 < row["p99_low_ms"] <= row["p99_high_ms"]
    assert turns == ["nobody", "bulk"]
    low, high = (report.summary[f"ls_p99_door_vs_runtime_{end}"] for end in ("low", "high"))
    assert 0 < low <= high


def test_a_peer_that_ends_is_missing_with_what_it_wrote(monkeypatch) -> None:
    plain = contenders([], ["http"])[2]
    assert plain.label == "plain binary"
    code = "import sys; sys.exit('AttributeError: no such lock')"
    broken = dataclasses.replace(
        plain, name="broken", command=lambda port, model: [sys.executable, "-c", code]
    )
    monkeypatch.setattr(serving, "contenders", lambda peers, protocols: [broken])
    report, missing = Report("serving", 0), {}
    chosen = dataclasses.replace(SHORT, peers=("broken",))
    with Generator() as generator:
        serving._compare(report, "mlp", chosen, generator, missing, QUIET)
    assert "AttributeError: no such lock" in missing["broken"]
    assert {row["what"] for row in report.rows} == {"generator's floor"}


class Failing:
    """A generator whose requests to one port fail at 8 connections."""

    def __init__(self, port: int) -> None:
        self.port = port

    def run(self, job: Job) -> dict[str, float]:
        if (job.port, job.connections) == (self.port, 8):
            raise RuntimeError("no request succeeded: {'lost': 8}")
        return {"p50_ms": 1.0}


def test_a_peer_that_ceases_to_answer_is_missing_and_the_others_go_on() -> None:
    chosen = dataclasses.replace(SHORT, peers=("peer",))
    turns = {label: Job(port, b"", 0.0, 1) for port, label in enumerate(("ours json", "peer json"))}
    missing: dict[str, str] = {}
    generator: Any = Failing(1)
    measured = serving._rounds(dict(turns), chosen, generator, missing, "", QUIET)
    assert set(measured) == {("ours json", n) for n in serving.CONCURRENCY}
    assert missing == {"peer": "peer json, 8 connections: no request succeeded: {'lost': 8}"}
    generator = Failing(0)
    with pytest.raises(RuntimeError, match="no request"):
        serving._rounds(turns, chosen, generator, missing, "", QUIET)


def test_the_ratios_have_the_names_that_others_quote() -> None:
    rows = [
        {"what": what, "model": "mlp", "connections": n, "p50_ms": p50, "rps": rps * n}
        for what, p50, rps in (
            ("generator's floor", 0.1, 8000), ("ours binary", 0.6, 300), ("ours json", 1, 200),
            ("ours grpc", 1, 180), ("plain binary", 0.5, 400), ("kserve binary", 1, 100),
            ("kserve grpc", 1, 90), ("mlserver json", 1, 50), ("floor grpc", 1, 360),
            ("floor-of-two grpc", 1, 450),
        )
        for n in (1, 8)
    ]  # fmt: skip
    rows += [{"what": f"door beside {k}", "p99_ms": 3} for k in ("nobody", *serving.KINDS)]
    ratios = serving._ratios([*rows, {"what": "runtime beside bulk", "p99_ms": 2}])
    wanted = {
        "http_p50_vs_plain": 1.2, "http_rps_vs_plain_c8": 0.75, "rps_vs.kserve": 3,
        "grpc_rps_vs.kserve": 2, "rps_vs.mlserver": 4, "ls_p99_door_vs_runtime": 1.5,
        "grpc_rps_vs_floor": 0.5, "grpc_rps_vs_floor_of_two": 0.4,
    }  # fmt: skip
    assert {key: ratios[key] for key in wanted} == pytest.approx(wanted)


def test_the_documentation_names_the_command_of_the_committed_figures() -> None:
    root = Path(__file__).parents[2]
    figures = json.loads((root / "benchmarks/results/serving.json").read_text())
    section = (root / "docs/benchmarks.md").read_text().partition("\n## Serving\n")[2]
    assert section.strip().splitlines()[0] == f"`{figures['command']}`"
