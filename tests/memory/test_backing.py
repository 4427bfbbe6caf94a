"""memory.backing: what a Runtime's memory stands on, on a CPU and on the fake CUDA driver."""

import os
from contextlib import contextmanager
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from fake_driver import finish

from missile_jax.errors import ConfigError
from missile_jax.memory import backing
from missile_jax.memory.backing import open_backing
from missile_jax.memory.store import Store

MIB = 1 << 20
OUT_OF_MEMORY = 2
ROOM = 256 << 10
GPU = SimpleNamespace(platform="gpu", local_hardware_id=0, memory_stats=dict)


@pytest.fixture(params=["cpu", "gpu"])
def opened(request, tmp_path, monkeypatch):
    """Opens a backing; a context manager, since the driver counts what a fixture would keep."""
    device = jax.devices("cpu")[0]
    if request.param == "gpu":
        device = GPU
        monkeypatch.setenv("MISSILE_CUDA_DRIVER", request.getfixturevalue("driver").path)

    @contextmanager
    def opened():
        made = open_backing(device, 4 * MIB, ROOM, tmp_path, None)
        yield made
        made.link.close()

    return opened


def store_of(backing):
    return Store(backing.group_bytes, backing.alignment, backing.host_zeros)


def test_a_group_comes_from_the_store_to_the_device(opened, request):
    leaves = [jax.numpy.arange(n, dtype=jax.numpy.float32) for n in (1000, 3, 70_000)]
    with opened() as backing:
        assert backing.bytes_per_s > 0
        host = store_of(backing).put("m", leaves, [0, 1, 2])
        assert len(host.groups) == 1
        (data,) = host.data
        block = backing.arena.allocate(data.nbytes)
        finish(backing.link.flow("a").copy((block.address, block), 0, data, 0, data.nbytes))
        assert len(block.views(host.groups[0].layout, lambda capsule: capsule)) == 3
        assert block.address % backing.alignment == 0
        if backing.arena.dlpack_device[0] == 1:
            np.testing.assert_array_equal(block.array(0, (1000,), "float32"), leaves[0])
        else:  # All came from pinned memory: nothing was staged.
            assert request.getfixturevalue("driver").unpinned_copies == 0


def test_equal_parameters_have_equal_groups(opened):
    """Padding is part of a group, and pinned memory is not zero when it is new."""
    with opened() as backing:
        store = store_of(backing)
        first, second = (store.put(name, [jax.numpy.ones(3)], [0]) for name in "ab")
        assert first.groups == second.groups
        assert first.data[0] is second.data[0]


def test_a_part_of_anothers_group_is_copied_from_where_that_one_lies(opened, request):
    backbone = [jax.numpy.arange(300_000, dtype=jax.numpy.float32)]
    with opened() as backing:
        store = store_of(backing)
        first, second = (
            store.put(name, [*backbone, jax.numpy.full(9, name == "b", "float32")], [0, 1])
            for name in "ab"
        )
        part, data = second.groups[0], second.data[0]
        assert part.whole in first.groups or part in first.groups
        block = backing.arena.allocate(data.nbytes)
        finish(backing.link.flow("a").copy((block.address, block), 0, data, 0, data.nbytes))
        if backing.arena.dlpack_device[0] == 1:
            np.testing.assert_array_equal(block.array(0, (300_000,), "float32"), backbone[0])
        else:
            assert request.getfixturevalue("driver").unpinned_copies == 0


def test_devices_that_cannot_be_managed(tmp_path, monkeypatch, driver):
    with pytest.raises(ConfigError, match="manages CPU and CUDA devices, got a tpu device"):
        open_backing(SimpleNamespace(platform="tpu"), MIB, ROOM, tmp_path, None)
    monkeypatch.setenv("MISSILE_CUDA_DRIVER", os.devnull)
    with pytest.raises(ConfigError, match="device_memory= cannot manage"):
        open_backing(GPU, MIB, ROOM, tmp_path, None)
    monkeypatch.setenv("MISSILE_CUDA_DRIVER", driver.path)
    driver.fail("cuMemAlloc_v2", 1, OUT_OF_MEMORY)
    with pytest.raises(ConfigError, match=r"^device_memory= is too much.*CLIENT_MEM_FRACTION"):
        open_backing(GPU, 8 * MIB, ROOM, tmp_path, None)
    driver.fail("cuDeviceTotalMem_v2", 1)
    with pytest.raises(ConfigError, match="driver answered cuDeviceTotalMem_v2 with error 700"):
        open_backing(GPU, 8 * MIB, ROOM, tmp_path, None)


@pytest.mark.parametrize(
    ("arena", "pool", "message"),
    [
        (6, 12, f"^device_memory= is too much: its arenas of {6 * MIB + ROOM} bytes and XLA's own "
                f"pool of {12 * MIB} are more than the {16 * MIB} of .*; "
                "set XLA_PYTHON_CLIENT_MEM_FRACTION=0.60 before"),
        (16, 12, f"more than the {16 * MIB} of .*; give a smaller device_memory=$"),
    ],
)  # fmt: skip
def test_the_arena_and_xlas_pool_are_one_budget(
    tmp_path, monkeypatch, driver, arena, pool, message
):
    monkeypatch.setenv("MISSILE_CUDA_DRIVER", driver.path)
    driver.limit(16 * MIB)
    gpu = SimpleNamespace(**vars(GPU) | {"memory_stats": lambda: {"bytes_limit": pool * MIB}})
    with pytest.raises(ConfigError, match=message):
        open_backing(gpu, arena * MIB, ROOM, tmp_path, None)
    open_backing(gpu, 3 * MIB, ROOM, tmp_path, None).link.close()


@pytest.mark.parametrize("stats", [None, {}])
def test_a_device_without_a_pool_leaves_the_arena_all(tmp_path, monkeypatch, driver, stats):
    monkeypatch.setenv("MISSILE_CUDA_DRIVER", driver.path)
    driver.limit(16 * MIB)
    gpu = SimpleNamespace(**vars(GPU) | {"memory_stats": lambda: stats})
    open_backing(gpu, 9 * MIB, ROOM, tmp_path, None).link.close()


@pytest.fixture
def curve(monkeypatch):
    """What the link of a card has for its transfer curve, and the sizes that it was asked for."""
    asked = []

    def answer(link, block, source, sizes):
        link.close()
        asked.append((block.size_bytes, source.nbytes, list(sizes)))
        return {size: 8e9 if size < 4 * MIB else 20e9 for size in sizes}

    monkeypatch.setattr(backing, "transfer_curve", answer)
    return asked


def test_the_elbow_of_a_gpu_is_measured_once_a_card(tmp_path, monkeypatch, driver, curve):
    monkeypatch.setenv("MISSILE_CUDA_DRIVER", driver.path)
    other = SimpleNamespace(**vars(GPU) | {"local_hardware_id": 1})
    for gpu, times in ((GPU, 1), (GPU, 1), (other, 2), (other, 2), (GPU, 2)):
        opened = open_backing(gpu, 16 * MIB, ROOM, tmp_path, None)
        opened.link.close()
        assert (opened.bytes_per_s, opened.group_bytes) == (20e9, 4 * MIB)
        assert len(curve) == times
    assert curve[0] == (16 * MIB, 32 * MIB, [MIB * size // 4 for size in (1, 2, 4, 8, 16, 32, 64)])
    for path in tmp_path.glob("copy-*.json"):
        path.write_text(path.read_text().replace("4194304", "0"))
    open_backing(GPU, 16 * MIB, ROOM, tmp_path, None).link.close()
    assert len(curve) == 3


def test_an_arena_without_room_for_the_curve_is_measured_as_far_as_it_goes(
    tmp_path, monkeypatch, driver, curve
):
    monkeypatch.setenv("MISSILE_CUDA_DRIVER", driver.path)
    for _ in range(2):  # Nothing is remembered: a larger one knows better.
        open_backing(GPU, 2 * MIB, ROOM, tmp_path, None).link.close()
    open_backing(GPU, 100 << 10, ROOM, tmp_path, None).link.close()
    assert curve == [
        *[(2 * MIB, 4 * MIB, [MIB // 4, MIB // 2, MIB, 2 * MIB])] * 2,
        (100 << 10, 200 << 10, [100 << 10]),
    ]
    open_backing(GPU, 16 * MIB, ROOM, tmp_path, None).link.close()
    opened = open_backing(GPU, 2 * MIB, ROOM, tmp_path, None)
    opened.link.close()
    assert len(curve) == 4
    assert opened.group_bytes == 4 * MIB


def test_a_card_whose_copies_fail_cannot_be_managed(tmp_path, monkeypatch, driver):
    monkeypatch.setenv("MISSILE_CUDA_DRIVER", driver.path)
    driver.fail("cuMemcpyHtoDAsync_v2", 3)
    with pytest.raises(ConfigError, match=r"cannot manage.*the link's rate: cuMemcpyHtoDAsync_v2"):
        open_backing(GPU, 16 * MIB, ROOM, tmp_path, None)
    assert not list(tmp_path.glob("copy-*"))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_groups_are_smaller_on_a_slower_bus(tmp_path, monkeypatch, request, platform):
    device = jax.devices("cpu")[0]
    if platform == "gpu":
        device = GPU
        request.getfixturevalue("curve")
        monkeypatch.setenv("MISSILE_CUDA_DRIVER", request.getfixturevalue("driver").path)
    bare = open_backing(device, 16 * MIB, ROOM, tmp_path, None)
    half = open_backing(device, 16 * MIB, ROOM, tmp_path, bare.bytes_per_s / 2)
    crawl = open_backing(device, 16 * MIB, ROOM, tmp_path, 1e6)
    for opened in (bare, half, crawl):
        opened.link.close()
    assert half.group_bytes == pytest.approx(max(bare.group_bytes / 2, 256 << 10), abs=1)
    assert crawl.group_bytes == 256 << 10
    # Only within the host's memory do processors make the copies.
    assert half.processor_share == bare.processor_share / 2
    assert (bare.processor_share > 0) == (platform == "cpu")
