"""benchmarks.fuzz: a short run of every decoder; a decoder that is wrong is found."""

import random
import subprocess
import sys
import tempfile

import pytest

from benchmarks import fuzz
from benchmarks.fuzz import TARGETS, run
from benchmarks.fuzz_inputs import mutated, recompressed, resized
from missile_jax.server.tensors import CodecError


def refused(name: str, inputs) -> int:
    """How many inputs the target refuses; it raises anything but CodecError."""
    count = 0
    for data in inputs:
        try:
            TARGETS[name].run(data)
        except CodecError:
            count += 1
    return count


@pytest.mark.parametrize("name", TARGETS)
def test_it_begins_with_what_is_valid_and_with_known_faults(name) -> None:
    faults = {"byte-tensor": 4, "compressed": 14}
    first = list(TARGETS[name].first())
    assert refused(name, first) == faults.get(name, 0) < len(first)


@pytest.mark.parametrize(
    ("name", "mutate"), [("byte-tensor", resized), ("compressed", recompressed)]
)
def test_many_mutations_come_past_what_is_checked_first(name, mutate) -> None:
    rng = random.Random(0)
    first = list(TARGETS[name].first())
    made = [mutate(rng.choice(first), rng) for _ in range(300)]
    assert len(set(made)) > 150
    assert 30 < refused(name, made) < 270


@pytest.mark.parametrize("name", TARGETS)
def test_only_codec_errors_come_out(name) -> None:
    (row,) = run(20_000, 0, name).rows
    assert row["failed"] == 0, row["why"]
    assert row["n"] == 20_000
    assert row["coverage"] > 5


def test_the_memory_of_whoever_starts_it_does_not_count() -> None:
    code = """
from benchmarks.fuzz import RSS_MB, run

b"x" * (RSS_MB + 256 << 20)
(row,) = run(200, 0, "byte-tensor").rows
assert not row["failed"], row["why"]
assert row["rss_mb"] < RSS_MB
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_any_other_error_is_found() -> None:
    code = """
import sys
from benchmarks import fuzz

def wrong(data):
    raise KeyError("found")

fuzz.TARGETS["request"] = fuzz.TARGETS["request"]._replace(run=wrong)
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
    data = next(TARGETS["request"].first())
    mutations = {mutated(data, rng) for _ in range(50)}
    assert len(mutations) > 25
    assert all(m.endswith(data[-20:]) for m in mutations)


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed: request"):
        run(1, 0, "nothing")


def test_growth_fails_a_target(monkeypatch) -> None:
    monkeypatch.setattr(fuzz, "GROWTH_MB", -1)
    assert run(2000, 0, "byte-tensor").summary["failed"] == 1
