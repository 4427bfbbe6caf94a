"""memory.flows: what tenants have of the link, in the directions that a device has."""

import threading

import numpy as np
import pytest
from card_programs import MIB, described, shown
from fake_driver import finish

from missile_jax import Tenant
from missile_jax._native import Link
from missile_jax.memory import memory
from missile_jax.memory.flows import Flows
from missile_jax.memory.memory import Memory
from missile_jax.memory.transfers import CudaTransfers


def copy(flow):
    finish(flow.copy(bytearray(100), 0, bytes(100), 0, 100))


def test_a_device_in_the_hosts_memory_has_one_direction():
    flows = Flows(Link(), None, {"search": Tenant(link_weight=3)})
    assert flows.stats() == {}
    for _ in range(2):
        copy(flows.to_device("search", True))
    copy(flows.to_device("search", False))
    copy(flows.to_device("other", False))
    stats = flows.stats()
    assert {
        name: (flow["weight"], flow["latency"], flow["bytes"]) for name, flow in stats.items()
    } == {
        "search/latency": (3, True, 200),
        "search/best_effort": (3, False, 100),
        "other/best_effort": (1, False, 100),
    }
    assert not any("to_host" in flow for flow in stats.values())
    flows.close()
    flows.close()
    with pytest.raises(RuntimeError, match="the link is closed"):
        flows.to_device("new", False)


class Gpu:
    """As much of JAX's device as a Memory asks for."""

    platform, local_hardware_id = "gpu", 0

    def memory_stats(self):
        return {}


@pytest.fixture
def made(driver, tmp_path, monkeypatch):
    """Makes a Memory on the fake driver's device, as a Runtime does."""
    monkeypatch.setenv("MISSILE_CUDA_DRIVER", driver.path)
    monkeypatch.setattr(memory, "array_maker", lambda _: shown)
    driver.delays(0, 0)

    def make(**options):
        return Memory(
            Gpu(), Gpu(), 16 * MIB, host_bytes=None, disk=None, cache_dir=tmp_path, eviction="lru",
            observer=None, now_ns=int, lock=threading.RLock(), arrived=int, **options,
        )  # fmt: skip

    return make


def test_a_gpu_has_a_link_each_way_with_its_tenants_weights(made):
    one = made(tenants={"search": Tenant(link_weight=3)}, link_bytes_per_s=None)
    # A sixteenth is for inputs, and the rest of a quarter for what XLA allocates.
    assert one.arena.size_bytes == 12 * MIB
    assert one.temporary_bytes == 3 * MIB
    transfers = one.transfers(described("m", "search", latency=True))
    assert isinstance(transfers, CudaTransfers)
    x = np.random.default_rng(0).integers(0, 256, (1, MIB), np.uint8)
    arrays, held = transfers.to_device([transfers.stage(x)])
    (back,) = transfers.to_host(arrays)
    np.testing.assert_array_equal(back, x)
    assert one.arena.stats()["live_blocks"] == 0
    stats = one.stats()
    flow = stats["link"]["search/latency"]
    assert (flow["bytes"], flow["weight"], flow["copies"]) == (MIB, 3, 1)
    other = flow["to_host"]
    assert (other["bytes"], other["weight"], other["copies"], other["latency"]) == (MIB, 3, 1, True)
    assert stats["transfers"] == {"inputs": 1, "results": 1, "inputs_by_xla": 0, "unpinned": 0}
    del arrays, held
    one.close()
    one.close()


def test_a_bus_that_is_played_is_as_slow_both_ways(made):
    one = made(tenants={}, link_bytes_per_s=200e6)
    transfers = one.transfers(described("m"))
    flow = one._flows.to_host("default", False)
    arrays, _ = transfers.to_device([np.ones((1, MIB), np.uint8)])
    host = np.zeros(MIB, np.uint8)
    there = arrays[0].unsafe_buffer_pointer()
    copies = [flow.copy(host, 0, (there, arrays[0]), 0, MIB) for _ in range(4)]
    for each in copies:
        finish(each)
    took_ns = copies[-1].ended_ns - copies[0].submitted_ns
    assert took_ns >= 0.99e9 * 4 * MIB / 200e6
    one.close()
