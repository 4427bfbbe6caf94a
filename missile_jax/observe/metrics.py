"""Prometheus metrics of a `Runtime`, read when they are scraped: docs/metrics.md lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from missile_jax.engine.stats import BOUNDS_NS
from missile_jax.observe.calls import Calls, CallsCollector
from missile_jax.observe.gpu import DeviceCollector
from missile_jax.runtime import Runtime

Values = Mapping[str, Any]

_MODEL = ("model", "tenant")
_ROWS = tuple(2**k for k in range(11))


class _Count(NamedTuple):
    """One number of a model or of the memory, as a metric: `of` is given what it is a number of."""

    name: str
    help: str
    of: Callable[[Values], float]
    labels: tuple[str, ...] = _MODEL


_OUTCOMES = {
    "success": "success_count",
    "error": "fail_count",
    "cancelled": "cancel_count",
    "deadline": "expire_count",
    "rejected": "reject_count",
    "overloaded": "overload_count",
}

# Of every model that is or was loaded.
_ACCOUNTS = (
    _Count("missile_rows", "Rows that ran, without padding.", lambda a: a["inference_count"]),
    _Count("missile_launches", "Pieces launched on the device.", lambda a: a["launch_count"]),
    _Count(
        "missile_device_seconds",
        "Time of launches on the device; launches that overlap each count in full.",
        lambda a: a["device_ns"] / 1e9,
        (*_MODEL, "priority"),
    ),
    _Count(
        "missile_request_input_bytes",
        "Bytes of the inputs of requests that succeeded.",
        lambda a: a["input_bytes"],
    ),
    _Count(
        "missile_request_output_bytes",
        "Bytes of the outputs of requests that succeeded.",
        lambda a: a["output_bytes"],
    ),
    _Count(
        "missile_slo_met",
        "Requests that succeeded within the objective; all that did where there is none.",
        lambda a: a["within_slo_count"],
    ),
)
# Of every model that is or was in managed memory.
_SWAPS = (
    _Count("missile_swap_ins", "Times parameters had to be fetched.", lambda s: s["swap_ins"]),
    _Count("missile_swap_hits", "Times all parameters were there already.", lambda s: s["hits"]),
    _Count(
        "missile_swap_in_bytes", "Parameters fetched to the device.", lambda s: s["swap_in_bytes"]
    ),
    _Count(
        "missile_evictions",
        "Times a model ceased to be on the device in full.",
        lambda s: s["evictions"],
    ),
    _Count(
        "missile_evicted_bytes", "Parameters dropped from the device.", lambda s: s["evicted_bytes"]
    ),
)
# Of every flow of the link, in each direction.
_FLOWS = (
    _Count(
        "missile_link_bytes",
        "Bytes copied over the link: parameters, large inputs, and on a GPU large results.",
        lambda f: f["bytes"],
        ("tenant", "priority", "direction"),
    ),
    _Count(
        "missile_link_wait_seconds",
        "Time that copies waited for the link.",
        lambda f: f["waited_ns"] / 1e9,
        ("tenant", "priority", "direction"),
    ),
)
# Of every loaded model, now.
_MODELS = (
    _Count("missile_queue_depth", "Requests that wait.", lambda m: m["queue_depth"]),
    _Count("missile_launches_in_flight", "Pieces on the device.", lambda m: m["in_flight"]),
    _Count("missile_parameter_bytes", "Size of the parameters.", lambda m: m["parameter_bytes"]),
    _Count(
        "missile_resident_bytes",
        "Parameters that are on the device.",
        lambda m: m["residency"]["resident_bytes"],
    ),
)
_OBJECTIVES = (
    _Count("missile_slo_seconds", "The objective's deadline.", lambda m: m["slo_ms"] / 1e3),
    _Count(
        "missile_slo_attainment_ratio",
        "Share of the requests that succeeded within it.",
        lambda m: m["slo_attainment"],
    ),
)
_MEMORY = (
    _Count("missile_arena_size_bytes", "The arena's size.", lambda m: m["arena"]["size_bytes"], ()),
    _Count("missile_arena_used_bytes", "Of it, in blocks.", lambda m: m["arena"]["used_bytes"], ()),
    _Count(
        "missile_resident_models",
        "Models that are on the device in full.",
        lambda m: m["resident_models"],
        (),
    ),
    _Count(
        "missile_waiting_models",
        "Models that wait for room on the device.",
        lambda m: m["waiting_models"],
        (),
    ),
    _Count(
        "missile_host_memory_bytes",
        "Parameters that are in host memory.",
        lambda m: m["host_bytes"],
        (),
    ),
)
# Names of NVIDIA's Triton server, as far as they mean exactly the same here.
_TRITON = (
    _Count(
        "nv_inference_request_success",
        "Requests that succeeded (Triton's name).",
        lambda a: a["success_count"],
    ),
    _Count(
        "nv_inference_count",
        "Rows that ran, without padding (Triton's name).",
        lambda a: a["inference_count"],
    ),
    _Count(
        "nv_inference_exec_count",
        "Batches that ran (Triton's name).",
        lambda a: a["execution_count"],
    ),
    _Count(
        "nv_inference_request_duration_us",
        "Time from arrival to result of requests that succeeded (Triton's name).",
        lambda a: a["success_ns"] // 1000,
    ),
    _Count(
        "nv_inference_queue_duration_us",
        "Time that they waited for the device or for parameters (Triton's name).",
        lambda a: a["queue_ns"] // 1000,
    ),
)


class RuntimeCollector(Collector):
    """All metrics of one runtime; a scrape costs one call of `Runtime.stats`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def collect(self) -> Iterator[Metric]:
        stats = self._runtime.stats()
        accounts = stats["accounts"]
        yield _requests(accounts)
        yield _durations(accounts)
        yield _batches(accounts)
        yield from _families(CounterMetricFamily, _ACCOUNTS, accounts)
        models = [{"model": name} | model for name, model in stats["models"].items()]
        yield GaugeMetricFamily("missile_models", "Models that are loaded.", len(models))
        yield from _families(GaugeMetricFamily, _MODELS, models)
        with_slo = [model for model in models if "slo_ms" in model]
        yield from _families(GaugeMetricFamily, _OBJECTIVES, with_slo)
        if "memory" in stats:
            memory = stats["memory"]
            yield from _families(GaugeMetricFamily, _MEMORY, [memory])
            yield from _families(CounterMetricFamily, _SWAPS, memory["swaps"])
            yield from _families(CounterMetricFamily, _FLOWS, _flows(memory["link"]))
        triton = [{"version": "1"} | account for account in accounts]
        named = [count._replace(labels=("model", "version")) for count in _TRITON]
        # Triton's counters lack the suffix that a counter has to have.
        yield from _families(UnknownMetricFamily, named, triton)


class Exposition:
    """The metrics of a runtime, its device and the doors before it, in the format of a scrape."""

    def __init__(self, runtime: Runtime, calls: Calls) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(RuntimeCollector(runtime))
        self._registry.register(CallsCollector(calls))
        self._registry.register(DeviceCollector(runtime))

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type, as the Accept header asks: Prometheus' or OpenMetrics'."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def _families(family: Any, counts: Iterable[_Count], rows: Iterable[Values]) -> Iterator[Metric]:
    rows = list(rows)
    for count in counts:
        metric = family(count.name, count.help, labels=count.labels)
        for labels, value in _summed(count.of, count.labels, rows).items():
            metric.add_metric(labels, value)
        yield metric


def _summed(
    of: Callable[[Values], float], names: Sequence[str], rows: Iterable[Values]
) -> dict[tuple[str, ...], float]:
    """By labels: an account has more of them than most metrics."""
    sums: dict[tuple[str, ...], float] = {}
    for row in rows:
        labels = tuple(row[name] for name in names)
        sums[labels] = sums.get(labels, 0) + of(row)
    return sums


def _requests(accounts: Iterable[Values]) -> Metric:
    metric = CounterMetricFamily(
        "missile_requests", "Requests that ended, by outcome.", labels=(*_MODEL, "outcome")
    )
    for outcome, counter in _OUTCOMES.items():
        for labels, value in _summed(itemgetter(counter), _MODEL, accounts).items():
            metric.add_metric((*labels, outcome), value)
    return metric


def _durations(accounts: Iterable[Values]) -> Metric:
    metric = HistogramMetricFamily(
        "missile_request_duration_seconds",
        "Of requests that succeeded: total from arrival to result; of that, queue: waiting for the "
        "device, swap: for parameters, compute: on the device.",
        labels=(*_MODEL, "priority", "phase"),
    )
    bounds = [str(ns / 1e9) for ns in BOUNDS_NS]
    for account in accounts:
        for phase, histogram in account["phases"].items():
            labels = (account["model"], account["tenant"], account["priority"], phase)
            buckets = _cumulated(bounds, histogram["counts"])
            metric.add_metric(labels, buckets, histogram["sum_ns"] / 1e9)
    return metric


def _batches(accounts: Iterable[Values]) -> Metric:
    metric = HistogramMetricFamily(
        "missile_batch_rows",
        "Rows of the batches that ran, without padding.",
        labels=(*_MODEL, "priority"),
    )
    for account in accounts:
        counts = [0] * (len(_ROWS) + 1)
        for rows, count in account["batch_rows"].items():
            counts[min((rows - 1).bit_length(), len(_ROWS))] += count
        labels = (account["model"], account["tenant"], account["priority"])
        metric.add_metric(
            labels, _cumulated([str(rows) for rows in _ROWS], counts), account["inference_count"]
        )
    return metric


def _cumulated(bounds: Iterable[str], counts: Iterable[int]) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for bound, count in zip((*bounds, "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets


def _flows(link: Values) -> Iterator[Values]:
    for name, flow in link.items():
        tenant, _, priority = name.rpartition("/")
        labels = {"tenant": tenant, "priority": priority}
        yield labels | {"direction": "to_device"} | flow
        if "to_host" in flow:
            yield labels | {"direction": "to_host"} | flow["to_host"]
