"""The link as tenants have it: a flow for each tenant and class, in each direction."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from missile_jax._native import Flow, Link
from missile_jax.spec import Tenant


class Flows:
    """Opened when they are first asked for, both directions together. Safe on any thread.

    to_device, to_host: one direction each; None for a device whose memory is the host's.
    tenants: what each gets of the link; those not named get a `Tenant`'s defaults.
    """

    def __init__(
        self, to_device: Link, to_host: Link | None, tenants: Mapping[str, Tenant]
    ) -> None:
        self._links = (to_device,) if to_host is None else (to_device, to_host)
        self._tenants = dict(tenants)
        self._flows: dict[tuple[str, bool], tuple[Flow, ...]] = {}
        self._lock = threading.Lock()

    def to_device(self, tenant: str, latency: bool) -> Flow:
        """Raises RuntimeError if the link is closed."""
        return self._of(tenant, latency)[0]

    def to_host(self, tenant: str, latency: bool) -> Flow:
        """Raises RuntimeError if the link is closed."""
        return self._of(tenant, latency)[1]

    def _of(self, tenant: str, latency: bool) -> tuple[Flow, ...]:
        with self._lock:
            flows = self._flows.get((tenant, latency))
            if flows is None:
                weight = self._tenants.get(tenant, Tenant()).link_weight
                name = f"{tenant}/{'latency' if latency else 'best_effort'}"
                flows = tuple(link.flow(name, weight, latency) for link in self._links)
                self._flows[tenant, latency] = flows
            return flows

    def stats(self) -> dict[str, dict[str, Any]]:
        """By tenant and class; `to_host` has the same figures of the other direction."""
        with self._lock:
            both = [link.stats() for link in self._links]
        stats: dict[str, dict[str, Any]] = {name: dict(flow) for name, flow in both[0].items()}
        for to_host in both[1:]:
            for name, flow in to_host.items():
                stats[name]["to_host"] = flow
        return stats

    def close(self) -> None:
        """Fails what waits. May be called twice."""
        for link in self._links:
            link.close()
