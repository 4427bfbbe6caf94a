"""benchmarks.density: when a function meets its objective, and the plot of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.density import CASES, SIMULATED, SYSTEMS, compliant
from benchmarks.plots import plot_density


def calls(*functions: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """(function, ratios) of calls, given by function."""
    function = np.repeat(np.arange(len(functions)), [len(ratios) for ratios in functions])
    return function, np.concatenate(functions)


@pytest.mark.parametrize(
    ("ratios", "met"),
    [
        ([1.0, 3.0], True),
        ([3.1], False),
        ([1.0, 9.0], True),
        ([9.0, 9.0, 1.0], False),
        ([1.0] * 98 + [9.0] * 2, True),
        ([1.0] * 97 + [9.0] * 3, False),
        ([1.0] * 49 + [np.inf], False),
    ],
)
def test_two_in_a_hundred_may_be_late_and_one_of_few(ratios: list[float], met: bool) -> None:
    assert compliant(*calls(ratios)) == met


def test_functions_without_a_call_do_not_count() -> None:
    function, ratios = calls([1.0], [], [5.0], [2.0, 2.0])
    assert compliant(function, ratios) == pytest.approx(2 / 3)


def test_every_system_has_its_place_in_the_plot(tmp_path: Path) -> None:
    row = {"load_percent": 50, "compliant": 0.5, "ratio_percentiles": {"50": 1.0, "98": 4.0}}
    names = [(case, system) for case in CASES for system in (*SYSTEMS, *SIMULATED)]
    rows = [row | {"case": case, "system": system} for case, system in names]
    path = tmp_path / "density.json"
    path.write_text(json.dumps({"rows": rows}))
    assert plot_density(path).stat().st_size > 10_000
