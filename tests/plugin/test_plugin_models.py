"""A model of this project, whole and in segments, through the plugin; and programs of others."""

import subprocess
import sys
from pathlib import Path

import optax
from plugins import environment
from whole_zoo import compare


def test_a_model_runs_whole_and_in_segments(process):
    compare(process, ["squeezenet"])


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
