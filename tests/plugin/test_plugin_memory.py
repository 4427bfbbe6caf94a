"""Each buffer is its tenant's: what is in use, what may be, what is left."""

import plugin_worker as worker
import pytest
from plugins import CPU_MINORS, FILES, WRAPPER, environment, run_json

CAP = 8 << 20


@pytest.mark.parametrize("minor", CPU_MINORS)
def test_bytes_in_use_follow_every_buffer(minor, process):
    assert process(minor, True, launches=2)(worker.accounting) == {
        "upload": 4000,
        "output": 8000,
        "donated to its output": 8000,
        "view donated to an output": 8000,
        "dropped": 4000,
        "copy elsewhere": 4000,
        "deleted": 0,
        "copy dropped": 0,
        "packed": 500,
        "in host memory": 0,
    }


def test_the_peak_has_a_launch_s_temporaries(process):
    peak, needed, left = process(115, True, launches=2)(worker.temporaries)
    assert needed >= 256 * 256 * 4
    assert peak >= needed + 256 * 256 * 4
    assert left == 0


def test_a_tenant_over_its_cap_is_told_its_figures_and_goes_on(process):
    results = process(115, True, memory=CAP, tenant="greedy")(worker.over_the_cap)
    assert results["stats"]["bytes_limit"] == CAP
    assert results["stats"]["pool_bytes"] == CAP
    for what, asked in (("upload", 4 << 22), ("launch", 16 << 20)):
        assert "RESOURCE_EXHAUSTED: missile: tenant 'greedy' asks for" in results[what]
        assert f"of the {CAP} that MISSILE_PJRT_MEMORY allows" in results[what]
        assert f"asks for {asked} bytes" in results[what] or what == "launch"
    assert results["after"][2] == bytes(2)
    assert results["left"] == 0
    counts = results["counts"]
    assert counts["buffers_refused"] == 1
    assert counts["launches_refused_memory"] == 201
    assert counts["launches_made"] == counts["launches_ended"]


def test_launches_wait_for_temporaries_of_those_before(process):
    # Two of these launches do not fit at once.
    assert process(115, True, memory=4 << 20)(worker.many_launches, 50) == pytest.approx(1)


def test_nothing_is_left_of_what_came_and_went(process):
    left = process(115, True, launches=2)(worker.churn, 60)
    assert left["launches"] == left["placements"] == left["managers"] == 0
    # The process keeps one client, and what JAX itself keeps.
    assert left["tenants"] == 1
    assert left["records"] < 20
    assert left["executables"] < 20


COPIES = f"""
import json, sys, time
import jax
import numpy as np
from missile_jax.plugin.statistics import read_statistics
sys.path.append({str(FILES)!r})
import pypjrt
from pypjrt._loader import Plugin

OBJECTS = "placements", "reads"
values = np.arange(1 << 16, dtype=np.float32)
here, there = jax.devices()[:2]
host = jax.sharding.SingleDeviceSharding(here, memory_kind="pinned_host")
copies, used = [], []
for place in (there, host):
    view = jax.device_put(values, here)
    copies.append(jax.device_put(view, place))
    view.delete()
    used.append(there.memory_stats()["bytes_in_use"])
same = [np.array_equal(np.asarray(copy), values) for copy in copies]
del copies
# JAX reads what lies in a processor's memory without a copy.
with pypjrt.Client(Plugin({str(WRAPPER)!r})) as client, client.device() as device:
    with client.buffer_from_host(values, 11, values.shape, device) as view:
        same.append(view.to_host() == values.tobytes())
        part = bytearray(400)
        view.copy_raw_to_host(part, offset=800)
        same.append(part == values[200:300].tobytes())
for _ in range(1000):  # The plugin's threads tell of an end a little later.
    left, counts = here.memory_stats()["bytes_in_use"], read_statistics()
    if left == 0 and all(counts[o + "_made"] == counts[o + "_ended"] for o in OBJECTS):
        break
    time.sleep(0.01)
print(json.dumps([same, used, left, counts]))
"""


@pytest.mark.parametrize("minor", CPU_MINORS)
def test_copies_of_views_are_right_and_hold_no_block_once_they_have_ended(minor):
    same, used, left, counts = run_json(COPIES, environment(minor, wrapped=True, statistics=1))
    assert same == [True] * 4
    assert used == [4 << 16, 4 << 16]  # What lies in host memory is no device's.
    assert left == 0
    assert counts["reads_made"] == counts["reads_ended"] == 4
    assert counts["placements_made"] == counts["placements_ended"]


def test_a_launch_within_a_launch_does_not_wait_for_it(process):
    result = process(115, True, launches=1)(worker.nested_callbacks)
    assert result.tolist() == [3, 3, 3]
