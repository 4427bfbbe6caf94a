"""benchmarks.fuzz: a short run of every decoder; a decoder that is wrong is found."""

import random
import subprocess
import sys
import tempfile

import pytest

from benchmarks.fuzz import TARGETS, mutated, run
from missile_jax.server.tensors import CodecError


@pytest.mark.parametrize("name", TARGETS)
def test_its_valid_inputs_are_valid(name) -> None:
    target, valid = TARGETS[name]
    bombs = 0
    for data in valid():
        try:
            target(data)
        except CodecError:
            bombs += 1
    assert bombs == (2 if name == "compressed" else 0)


@pytest.mark.parametrize("name", TARGETS)
def test_only_codec_errors_come_out(name) -> None:
    (row,) = run(20_000, 0, name).rows
    assert row["failed"] == 0, row["why"]
    assert row["n"] == 20_000
    assert row["coverage"] > 5


def test_any_other_error_is_found() -> None:
    code = """
import sys
from benchmarks import fuzz

def wrong(data):
    raise KeyError("found")

fuzz.TARGETS["request"] = (wrong, fuzz.TARGETS["request"][1])
sys.argv = ["fuzz", "request", "-runs=100", "-artifact_prefix=" + sys.argv[1] + "/"]
fuzz.main()
"""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True, check=False
        )
    assert done.returncode != 0
    assert "KeyError: 'found'" in done.stdout + done.stderr


def test_a_mutation_changes_one_value_and_keeps_the_tensors() -> None:
    rng = random.Random(0)
    data = next(TARGETS["request"][1]())
    mutations = {mutated(data, rng) for _ in range(50)}
    assert len(mutations) > 25
    assert all(m.endswith(data[-20:]) for m in mutations)


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed: request"):
        run(1, 0, "nothing")
