"""A conformance harness that knows nothing of the wrapper finds it to be the plugin it wraps."""

import json
import subprocess
import sys

import pytest
from plugins import FILES, LIBRARIES, WRAPPER, environment

# What the wrapper adds on purpose: plugins for CPUs have none.
ADDED = {"device.memory_stats", "device.clear_memory_stats"}
# The harness calls an extension's function that plugins of 0.81 do not have, and crashes.
CRASHES = {81: "executable_parameters"}

HARNESS = """
import sys
from pypjrt import conform
conform._CHECKS[:] = [check for check in conform._CHECKS if check[1] != LEFT_OUT]
sys.exit(conform.main())
"""


@pytest.mark.parametrize("minor", LIBRARIES)
def test_the_harness_finds_no_difference_but_memory_statistics(minor, tmp_path):
    env = environment(minor, wrapped=True) | {"PYTHONPATH": str(FILES)}
    reports = []
    for name, library in (("bare", LIBRARIES[minor]), ("wrapped", WRAPPER)):
        reports.append(tmp_path / f"{name}.json")
        done = subprocess.run(
            [sys.executable, "-c", f"LEFT_OUT = {CRASHES.get(minor)!r}\n{HARNESS}",
             str(library), "--json", str(reports[-1])],
            env=env, capture_output=True, text=True,
        )  # fmt: skip
        assert reports[-1].exists(), done.stdout + done.stderr
    bare, wrapped = (json.loads(report.read_text()) for report in reports)
    for key in ("api_version", "struct_size", "slots", "platform", "attributes", "extensions"):
        assert wrapped[key] == bare[key]
    assert len(bare["checks"]) > 60
    pairs = list(zip(bare["checks"], wrapped["checks"], strict=True))
    different = {a["id"] for a, b in pairs if (a["id"], a["result"]) != (b["id"], b["result"])}
    assert different <= ADDED
    on_cpu = bare["platform"] == "cpu"
    assert ("device.memory_stats" in different) == on_cpu
    # Without a GPU the CUDA plugins can make no client, and say so.
    failed = [check["id"] for check in wrapped["checks"] if check["result"] == "fail"]
    assert failed == ([] if on_cpu else ["client.create"])
    assert sum(check["result"] == "pass" for check in wrapped["checks"]) > (45 if on_cpu else 8)
