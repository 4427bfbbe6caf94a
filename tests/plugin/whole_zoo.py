"""The whole zoo through the plugin: minutes, so `make soak` runs it, and `make test` one model."""

import os
import tempfile
from functools import cache
from pathlib import Path
from unittest.mock import patch

import plugin_worker as worker
import pytest

from missile_jax.program import build, costs


def cut_alike(names: list[str], folder: Path) -> worker.Results:
    """`worker.models`, whose plans are the same in every process.

    Everything is measured as ever. But what is told are estimates, and of all runs the same time,
    which is more than a quantum.
    """
    measure, time_run = costs.MeasuredCosts._measure, build._time_run

    def estimated(self, eqn) -> int:
        measure(self, eqn)
        return costs.estimate_ns(eqn)

    def alike(*args) -> list[int]:
        return [20_000_000 for _ in time_run(*args)]

    # Costs that are none, and programs that another side has compiled, are in no other cache.
    with (
        patch.dict(os.environ, MISSILE_CACHE=str(folder)),
        patch.object(costs.MeasuredCosts, "_measure", estimated),
        patch.object(build, "_time_run", alike),
        patch.object(build, "_ROUNDS", 1),
    ):
        return worker.models(names)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Of caches, until this process ends: JAX keeps to the one that it was told first."""
    return tempfile.TemporaryDirectory(prefix="zoo-")


def compare(process, names: list[str]) -> None:
    # Processes of their own: a Runtime turns on JAX's persistent cache, and XLA on CPUs cannot
    # serialize a program again that comes from there, as another test's programs are to be.
    bare, wrapped = (
        process(115, side, tenant="zoo")(cut_alike, names, Path(_folder().name) / str(side))
        for side in (False, True)
    )
    assert wrapped == bare
    for name in names:
        assert bare[f"{name} latency segments"] == 1
        assert bare[f"{name} best_effort segments"] > 1


@pytest.mark.parametrize("name", ["squeezenet", "mobilenet", "efficientnet", "resnet50", "minilm"])
def test_the_zoo_runs_whole_and_in_segments(process, name):
    compare(process, [name])
