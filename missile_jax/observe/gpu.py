"""The device that is served, under the names of NVIDIA's Triton server, which its clients read."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from missile_jax.runtime import Runtime

_log = logging.getLogger(__name__)


class Usage(NamedTuple):
    """What a device does now; NaN for what cannot be known of it."""

    uuid: str
    utilization: float
    power_w: float
    used_bytes: float
    total_bytes: float


class DeviceCollector(Collector):
    """Of the CPU where models run on it; else of every NVIDIA GPU, by NVML."""

    def __init__(self, runtime: Runtime) -> None:
        platform = runtime.stats()["device"].partition(":")[0]
        self._usages = _Cpu(runtime) if platform == "cpu" else _Gpus()

    def collect(self) -> Iterator[Metric]:
        usages = list(self._usages())
        for name, text, field in (
            (
                "nv_gpu_utilization",
                "Share of time the device was busy, 0 to 1. cpu-0: since the last scrape, with a "
                "launch on it.",
                "utilization",
            ),
            ("nv_gpu_power_usage", "Watts. cpu-0: not known.", "power_w"),
            ("nv_gpu_memory_used_bytes", "Memory in use. cpu-0: of the host.", "used_bytes"),
            ("nv_gpu_memory_total_bytes", "Memory. cpu-0: of the host.", "total_bytes"),
        ):
            metric = GaugeMetricFamily(name, text, labels=("gpu_uuid",))
            for usage in usages:
                metric.add_metric((usage.uuid,), getattr(usage, field))
            yield metric


class _Cpu:
    """What a CPU says of itself, and how long launches took of the time since the last call."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._last = self._now()

    def __call__(self) -> list[Usage]:
        before, self._last = self._last, self._now()
        elapsed_ns, busy_ns = (b - a for a, b in zip(before, self._last, strict=True))
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = (os.sysconf(name) * page for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
        busy = min(busy_ns / max(elapsed_ns, 1), 1.0)
        return [Usage("cpu-0", busy, math.nan, total - free, total)]

    def _now(self) -> tuple[int, int]:
        stats = self._runtime.stats()
        return stats["now_ns"], sum(account["device_ns"] for account in stats["accounts"])


class _Gpus:
    """Every GPU that the driver shows, by NVML; one that is divided (MIG) as its instances.

    What goes wrong is logged once, not at each scrape.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._nvml = self._begin()

    def __call__(self) -> list[Usage]:
        nvml = self._nvml
        if nvml is None:
            return []
        try:
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            self._warn(f"metrics of GPUs are absent: {error}")
            return []
        usages: list[Usage] = []
        for index in range(count):
            try:
                gpu = nvml.nvmlDeviceGetHandleByIndex(index)
                usages += [_usage(nvml, handle) for handle in _instances(nvml, gpu) or [gpu]]
            except nvml.NVMLError as error:
                self._warn(f"metrics of GPU {index} are absent: {error}")
        return usages

    def _begin(self) -> Any:
        """The module, initialised; None where it or the driver's library is missing."""
        try:
            import pynvml
        except ImportError:
            self._warn("metrics of GPUs need nvidia-ml-py, of missile-jax[cuda12] or [cuda13]")
            return None
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            self._warn(f"metrics of GPUs need the driver's NVML: {error}")
            return None
        return pynvml

    def _warn(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            _log.warning("%s", text)


def _instances(nvml: Any, gpu: Any) -> list[Any] | None:
    """Of a GPU that is divided; None for one that is not, or cannot be."""
    mode = _known(nvml, nvml.nvmlDeviceGetMigMode, gpu)
    if mode is None or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        return None
    places = range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu))
    found = [_known(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu, k) for k in places]
    return [instance for instance in found if instance is not None]


def _usage(nvml: Any, handle: Any) -> Usage:
    rates = _known(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    power_mw = _known(nvml, nvml.nvmlDeviceGetPowerUsage, handle)
    memory = _known(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    return Usage(
        nvml.nvmlDeviceGetUUID(handle),
        math.nan if rates is None else rates.gpu / 100,
        math.nan if power_mw is None else power_mw / 1000,
        math.nan if memory is None else memory.used,
        math.nan if memory is None else memory.total,
    )


def _known(nvml: Any, ask: Callable[..., Any], *arguments: Any) -> Any:
    """What NVML says; None where it does not: a shared or a divided GPU keeps some to itself."""
    try:
        return ask(*arguments)
    except nvml.NVMLError:
        return None
