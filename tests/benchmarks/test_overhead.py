"""benchmarks.overhead: the figures that it makes of the times it measured."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from rich.console import Console

from benchmarks import overhead
from benchmarks.report import Report

COMMITTED = Path(__file__).parents[2] / "benchmarks" / "results" / "overhead.json"
# Median of each side in us. After a pause, free threads take twice as long, pinned ones do not.
MADE_UP = {
    "bare": 80.0, "infer": 130.0, "submit": 150.0, "plain": 400.0, "ours": 500.0,
    "whole": 90_000.0, "cut": 91_800.0,
}  # fmt: skip
PAUSED = {("free", 0.0): 10.0, ("free", 0.03): 20.0, ("pinned", 0.0): 10.0, ("pinned", 0.03): 12.0}


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Report:
    """Of a run in which every side is called, and took what is made up."""
    net = nn.Dense(2)
    example = np.zeros((1, 3), np.float32)
    tiny = SimpleNamespace(
        name="tiny", module=net, variables=net.init(jax.random.key(0), example), example=example
    )
    side = ["none"]

    def timed(sides: dict[str, Callable[[], Any]], calls: int, block: int) -> dict[str, Any]:
        for call in sides.values():
            call()
        return {name: MADE_UP[name] + np.array([-2.0, 0.0, 5.0]) for name in sides}

    @contextmanager
    def server(module: str) -> Iterator[Any]:
        yield SimpleNamespace(send=lambda request: request)

    monkeypatch.setattr(overhead, "interleaved", timed)
    monkeypatch.setattr(overhead, "_server", server)
    monkeypatch.setattr(overhead, "SEGMENTED", {"tiny": 1, "tiny-b4": 4})
    monkeypatch.setattr(overhead, "SEGMENTED_QUICK", ("tiny", "tiny-b4"))
    monkeypatch.setattr(overhead.zoo, "load", lambda name, random_weights: tiny)
    monkeypatch.setattr(overhead, "items", lambda net, batch: [np.ones((batch, 3), np.float32)])
    # Where a thread runs is not for a test to change.
    monkeypatch.setattr(overhead, "_place_threads", lambda chosen: side.__setitem__(0, chosen))
    monkeypatch.setattr(overhead, "_paused", lambda rt, x, s: [PAUSED[side[0], s]] * 3)
    return overhead.run(quick=True, seed=0, console=Console(quiet=True))


def test_figures_are_differences_and_ratios_of_medians(report: Report) -> None:
    assert report.summary == pytest.approx(
        {
            "bare_p50_us": 80.0,
            "runtime_p50_us": 50.0,
            "runtime_submit_p50_us": 70.0,
            "http_plain_p50_us": 400.0,
            "http_p50_us": 500.0,
            "http_vs_plain_p50": 1.25,
            "segmented_ratio.tiny": 1.02,
            "whole_ms.tiny": 90.0,
            "segmented_ratio.tiny-b4": 1.02,
            "whole_ms.tiny-b4": 90.0,
            "after_pause_ratio.free": 2.0,
            "after_pause_ratio.pinned": 1.2,
            "pinned_vs_free_after_pause": 0.6,
        }
    )


def test_rows_say_how_a_model_was_cut(report: Report) -> None:
    rows = {row["what"]: row for row in report.rows}
    assert {"mlp bare", "http ours", "squeezenet pinned, after 30 ms"} <= set(rows)
    assert rows["mlp infer"]["n"] == 3
    assert rows["tiny-b4 b4 cut"] | {"segments": 1, "bit_identical": True} == rows["tiny-b4 b4 cut"]
    assert "segments" not in rows["tiny-b4 b4 whole"]


def test_sides_take_turns_in_blocks() -> None:
    called = []
    sides = {name: lambda name=name: called.append(name) for name in "ab"}
    times = overhead.interleaved(sides, calls=6, block=3)
    assert "".join(called) == "aaabbb" + "aaabbb" * 2
    assert {name: len(values) for name, values in times.items()} == {"a": 6, "b": 6}


@pytest.mark.parametrize(
    "figure",
    [
        "runtime_p50_us",
        "http_vs_plain_p50",
        *(f"segmented_ratio.{name}" for name in overhead.SEGMENTED),
        *(f"whole_ms.{name}" for name in overhead.SEGMENTED),
        "after_pause_ratio.free",
        "after_pause_ratio.pinned",
        "pinned_vs_free_after_pause",
    ],
)
def test_the_committed_run_has_the_figure(figure: str) -> None:
    assert json.loads(COMMITTED.read_text())["summary"][figure] > 0
