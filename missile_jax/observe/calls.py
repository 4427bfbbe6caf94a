"""What the doors of a server answered, whether or not a model had to do with it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

# Of a call that has no route, or whose route was not read yet: what clients make up is no label.
OTHER = "other"


class Calls:
    """Counts of calls by transport, route and status code.

    Each door adds to a dictionary of its own from one thread, without a lock; a scrape sums them.
    """

    def __init__(self) -> None:
        self._doors: list[tuple[str, dict[tuple[str, str], int]]] = []

    def door(self, transport: str) -> defaultdict[tuple[str, str], int]:
        """For a door to count in: ``counts[route, code] += 1``.

        route: of a fixed set, as the protocol writes it. code: the transport's name for the status.
        """
        counts: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._doors.append((transport, counts))
        return counts

    def totals(self) -> Counter[tuple[str, str, str]]:
        """By transport, route and code. May be called from any thread."""
        totals: Counter[tuple[str, str, str]] = Counter()
        for transport, counts in self._doors:
            for (route, code), count in counts.copy().items():
                totals[transport, route, code] += count
        return totals


class CallsCollector(Collector):
    """`Calls` as a metric."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def collect(self) -> Iterator[Metric]:
        metric = CounterMetricFamily(
            "missile_server_requests",
            "Requests that were answered over HTTP and gRPC, whatever became of them.",
            labels=("transport", "route", "code"),
        )
        for labels, count in sorted(self._calls.totals().items()):
            metric.add_metric(labels, count)
        yield metric
