"""The device's metrics by nvidia-ml-py, over a stand-in for the driver's library and over none.

The stand-in (tests/fake_nvml) has NVML's signatures; it is no GPU.
"""

import ctypes
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from missile_jax.observe.gpu import DeviceCollector

SOURCE = Path(__file__).parents[1] / "fake_nvml" / "fake_nvml.cc"
ON_CUDA = SimpleNamespace(stats=lambda: {"device": "cuda:0"})


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("fake_nvml") / "libnvidia-ml.so.1"
    command = ["c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, str(SOURCE), "-o", str(path)], check=True)
    return path


@pytest.fixture
def library(path, monkeypatch) -> ctypes.CDLL:
    """nvidia-ml-py takes it for the driver's."""
    library = ctypes.CDLL(str(path))
    monkeypatch.setattr(pynvml, "nvmlLib", library)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return library


def shown(collector: DeviceCollector) -> dict[str, dict[str, float]]:
    """Figures by uuid, by the part of their name that differs."""
    figures: dict[str, dict[str, float]] = {}
    for metric in collector.collect():
        for sample in metric.samples:
            name = metric.name.removeprefix("nv_gpu_")
            figures.setdefault(sample.labels["gpu_uuid"], {})[name] = sample.value
    return figures


def test_what_gpus_tell_is_shown_and_what_they_do_not_is_not_made_up(library, caplog):
    collector, before = DeviceCollector(ON_CUDA), library.fakeInits()
    figures = shown(collector)
    assert list(figures) == ["GPU-0", "MIG-1-0", "MIG-1-2", "GPU-3", "GPU-4"]
    assert figures["GPU-0"] == {
        "utilization": 0.42,
        "power_usage": 123.456,
        "memory_used_bytes": 1000,
        "memory_total_bytes": 80 * 2**30,
    }
    for uuid, total in (("MIG-1-0", 10 * 2**30), ("MIG-1-2", 10 * 2**30), ("GPU-3", 80 * 2**30)):
        known = {name: x for name, x in figures[uuid].items() if not math.isnan(x)}
        assert known == {"memory_used_bytes": 1000, "memory_total_bytes": total}
    assert all(math.isnan(x) for x in figures["GPU-4"].values())
    again = shown(collector)
    assert list(again) == list(figures)
    assert library.fakeInits() == before, "NVML is initialised once"
    assert caplog.messages == ["metrics of GPU 2 are absent: GPU is lost"]


def test_without_a_driver_there_are_none_and_the_log_says_so_once(monkeypatch, caplog):
    def no_library(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", no_library)
    collector = DeviceCollector(ON_CUDA)
    assert shown(collector) == shown(collector) == {}
    (message,) = caplog.messages
    assert message.startswith("metrics of GPUs need the driver's NVML: ")
    assert "Not Found" in message


def test_without_its_package_there_are_none_and_the_log_says_so_once(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    collector = DeviceCollector(ON_CUDA)
    assert shown(collector) == shown(collector) == {}
    assert caplog.messages == [
        "metrics of GPUs need nvidia-ml-py, of missile-jax[cuda12] or [cuda13]"
    ]
