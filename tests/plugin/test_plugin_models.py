"""This project's own models and segments through the plugin, and programs of others."""

import subprocess
import sys
from pathlib import Path

import optax
import plugin_worker as worker
import pytest
from plugins import environment


def compare(process, names: list[str]) -> None:
    bare, wrapped = (process(115, w)(worker.models, names) for w in (False, True))
    outputs = {key for key in bare if not key.endswith("segments")}
    # Segments are cut by measured durations, so their number may differ, and bits with it.
    same = {key for key in outputs if bare[f"{key} segments"] == wrapped[f"{key} segments"]}
    assert {key: wrapped[key] for key in same} == {key: bare[key] for key in same}
    for key in outputs - same:
        assert [x[:2] for x in wrapped[key]] == [x[:2] for x in bare[key]]
    assert same, "no plan was the same"


def test_a_model_runs_whole_and_in_segments(process):
    compare(process, ["squeezenet"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet", "efficientnet", "resnet50", "minilm"])
def test_the_zoo_runs_whole_and_in_segments(process, name):
    compare(process, [name])


# Of optax's own tests, as they are installed: a training loop that donates, a solver, losses.
OPTAX = [
    "contrib/_schedule_free_test.py::ScheduleFreeTest::test_buffer_donation",
    "assignment/_hungarian_algorithm_test.py::HungarianAlgorithmTest::test_hungarian_algorithm0",
    "losses/_classification_test.py::SoftmaxCrossEntropyWithIntegerLabelsTest::test_axes0",
]


def test_programs_that_nobody_here_wrote_pass(tmp_path):
    folder = Path(optax.__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider"]
    (tmp_path / "pytest.ini").touch()
    command += ["-c", str(tmp_path / "pytest.ini")]
    done = subprocess.run(
        [*command, *(str(folder / name) for name in OPTAX)],
        env=environment(115, wrapped=True), cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(OPTAX)} passed" in done.stdout
