"""A conformance harness that knows nothing of the wrapper finds it to be the plugin it wraps."""

import json
import subprocess
import sys

import pytest
from plugins import CPU_MINORS, FILES, LIBRARIES, WRAPPER, environment

# What the wrapper adds on purpose.
ADDED = {"memory_stats", "clear_memory_stats"}


@pytest.mark.parametrize("minor", CPU_MINORS)
def test_the_harness_finds_no_difference_but_memory_statistics(minor, tmp_path):
    env = environment(minor, wrapped=True) | {"PYTHONPATH": str(FILES)}
    reports = []
    for name, library in (("bare", LIBRARIES[minor]), ("wrapped", WRAPPER)):
        command = [sys.executable, "-m", "pypjrt.conform", str(library)]
        reports.append(tmp_path / f"{name}.json")
        done = subprocess.run(
            [*command, "--json", reports[-1]], env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    diff = subprocess.run(
        [sys.executable, "-m", "pypjrt.conform", "--diff", *map(str, reports)],
        env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert diff.returncode in (0, 1), diff.stderr
    bare, wrapped = (json.loads(report.read_text()) for report in reports)
    assert len(bare["checks"]) > 60
    for key in ("api_version", "struct_size", "slots", "platform", "attributes", "extensions"):
        if key != "extensions":
            assert wrapped[key] == bare[key]
    kinds = [[(e["type"], e["size"]) for e in r["extensions"]] for r in (bare, wrapped)]
    assert kinds[0] == kinds[1]
    pairs = zip(bare["checks"], wrapped["checks"], strict=True)
    different = {a["id"] for a, b in pairs if (a["id"], a["result"]) != (b["id"], b["result"])}
    assert different <= ADDED, diff.stdout
    assert "memory_stats" in different
    assert not [c for c in wrapped["checks"] if c["result"] == "fail"]
