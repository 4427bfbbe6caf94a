"""What the page at / shows, as plain values: a compact form of `Runtime.stats`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

from missile_jax.engine.multiplexer import LaunchRecord

# What the page draws; more would not be seen.
_WINDOW_NS = 3_000_000_000
_MAX_SLICES = 600

Values = Mapping[str, Any]


def html() -> bytes:
    """The page itself: one file, nothing beside it."""
    return files("missile_jax.observe").joinpath("page.html").read_bytes()


def summary(stats: Values, launches: Iterable[LaunchRecord]) -> dict[str, Any]:
    """What the page polls.

    counters only grow, so that the page makes rates of two of them. timeline: of the last three
    seconds, ``[model, start_ms, duration_ms]`` with the start counted back from now.
    """
    memory = stats.get("memory")
    return {
        "now_ms": stats["now_ns"] / 1e6,
        "device": stats["device"],
        "policy": stats["policy"],
        "mode": stats["mode"],
        "models": [_model(name, model) for name, model in sorted(stats["models"].items())],
        "memory": None if memory is None else _memory(memory),
        "timeline": _timeline(stats["now_ns"], launches),
    }


def _model(name: str, model: Values) -> dict[str, Any]:
    latency = model["latency_ms"] or {}
    return {
        "name": name,
        "tenant": model["tenant"],
        "latency": model["priority"] == "latency",
        "queue": model["queue_depth"],
        "in_flight": model["in_flight"],
        "requests": model["success_count"],
        "failed": model["fail_count"]
        + model["expire_count"]
        + model["reject_count"]
        + model["overload_count"],
        "rows": model["inference_count"],
        "device_ms": model["device_ns"] / 1e6,
        "p50_ms": latency.get("p50"),
        "p99_ms": latency.get("p99"),
        "slo_ms": model.get("slo_ms"),
        "attainment": model.get("slo_attainment"),
        "resident": model["residency"]["resident_bytes"] / max(model["parameter_bytes"], 1),
    }


def _memory(memory: Values) -> dict[str, Any]:
    return {
        "used_bytes": memory["arena"]["used_bytes"],
        "size_bytes": memory["arena"]["size_bytes"],
        "resident_models": memory["resident_models"],
        "waiting_models": memory["waiting_models"],
        "link": [
            {"flow": name, "bytes": flow["bytes"], "waited_ms": flow["waited_ns"] / 1e6}
            for name, flow in sorted(memory["link"].items())
        ],
    }


def _timeline(now_ns: int, launches: Iterable[LaunchRecord]) -> list[tuple[str, float, float]]:
    recent = [one for one in launches if now_ns - one.ended_ns < _WINDOW_NS]
    return [
        (
            one.model,
            round((one.started_ns - now_ns) / 1e6, 2),
            round((one.ended_ns - one.started_ns) / 1e6, 2),
        )
        for one in recent[-_MAX_SLICES:]
    ]
