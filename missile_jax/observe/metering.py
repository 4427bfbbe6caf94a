"""What each tenant had of the device and the link, model by model: what a bill is made of."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from missile_jax.spec import Priority


@dataclass(frozen=True, slots=True)
class Meter:
    """One model of one tenant, since the process began. Numbers only grow, also past an unload.

    requests: those that succeeded. rows: B of all batches that ran, without padding.
    device_ns: of all launches, whatever became of them. Launches that overlap each count in full.
    link_bytes: of parameters copied to the device.
    input_bytes, output_bytes: of `requests`.
    """

    tenant: str
    model: str
    priority: str
    requests: int
    rows: int
    device_ns: int
    link_bytes: int
    input_bytes: int
    output_bytes: int


def meters(stats: Mapping[str, Any]) -> list[Meter]:
    """Of what `Runtime.stats` says, by tenant and model."""
    link_bytes = {
        (swap["model"], swap["tenant"], swap["latency"]): swap["swap_in_bytes"]
        for swap in stats.get("memory", {}).get("swaps", ())
    }
    made = [
        Meter(
            account["tenant"],
            account["model"],
            account["priority"],
            account["success_count"],
            account["inference_count"],
            account["device_ns"],
            link_bytes.get(
                (
                    account["model"],
                    account["tenant"],
                    account["priority"] == Priority.LATENCY.value,
                ),
                0,
            ),
            account["input_bytes"],
            account["output_bytes"],
        )
        for account in stats["accounts"]
    ]
    return sorted(made, key=lambda meter: (meter.tenant, meter.model, meter.priority))


def to_csv(stats: Mapping[str, Any]) -> str:
    """`meters` with a header line."""
    text = io.StringIO()
    table = csv.DictWriter(text, [f.name for f in fields(Meter)], lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(meter) for meter in meters(stats))
    return text.getvalue()
