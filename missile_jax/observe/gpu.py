"""The device that is served, under the names of NVIDIA's Triton server, which its clients read."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
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
        self._usages = _Cpu(runtime) if platform == "cpu" else _gpus

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


def _nvml() -> Any:
    """The module, initialised; None where it or the driver's library is missing."""
    try:
        import pynvml
    except ImportError:
        _log.warning("metrics of the GPU need nvidia-ml-py")
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        _log.warning("metrics of the GPU need NVML: %s", error)
        return None
    return pynvml


def _gpus() -> list[Usage]:
    pynvml = _nvml()
    if pynvml is None:
        return []
    count = pynvml.nvmlDeviceGetCount()
    return [_gpu(pynvml, pynvml.nvmlDeviceGetHandleByIndex(k)) for k in range(count)]


def _gpu(pynvml: Any, handle: Any) -> Usage:
    def known(ask: Any) -> Any:
        try:
            return ask(handle)
        except pynvml.NVMLError:  # A virtual or a shared GPU keeps some of it to itself.
            return None

    rates = known(pynvml.nvmlDeviceGetUtilizationRates)
    power_mw = known(pynvml.nvmlDeviceGetPowerUsage)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Usage(
        pynvml.nvmlDeviceGetUUID(handle),
        math.nan if rates is None else rates.gpu / 100,
        math.nan if power_mw is None else power_mw / 1000,
        memory.used,
        memory.total,
    )
