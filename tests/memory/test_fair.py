"""The link's scheduler against a model of it, and what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from missile_jax import _native

QUANTUM = 1000
WEIGHTS = st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0, 8.0, 1e-3, 1e3])


class Model:
    """The same rules in the plainest words: flows are dictionaries, the least is searched for."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.owed = 0.0
        self.floor = {True: 0.0, False: 0.0}
        self.flows: dict[int, dict] = {}

    def awake(self, latency: bool) -> list[tuple[float, int]]:
        return sorted(
            (flow["v"], k)
            for k, flow in self.flows.items()
            if flow["awake"] and flow["latency"] == latency
        )

    def raise_floor(self, latency: bool) -> float:
        if awake := self.awake(latency):
            self.floor[latency] = max(self.floor[latency], awake[0][0])
        return self.floor[latency]

    def add(self, flow: int, weight: float, latency: bool) -> None:
        v = self.raise_floor(latency)
        self.flows[flow] = {"weight": weight, "latency": latency, "v": v, "awake": False}

    def wake(self, flow: dict) -> None:
        if not flow["awake"]:
            flow["v"] = max(flow["v"], self.raise_floor(flow["latency"]))
            flow["awake"] = True

    def sleep(self, flow: dict) -> None:
        self.raise_floor(flow["latency"])
        flow["awake"] = False

    def set_weight(self, flow: dict, weight: float) -> None:
        ahead = flow["v"] - self.raise_floor(flow["latency"])
        if ahead > 0:
            flow["v"] = self.floor[flow["latency"]] + ahead * flow["weight"] / weight
        flow["weight"] = weight

    def next(self) -> int | None:
        urgent, patient = self.awake(True), self.awake(False)
        if not urgent and not patient:
            self.owed = 0.0
            return None
        if urgent and not (patient and self.owed >= (1.0 - 1e-9) * QUANTUM):
            return urgent[0][1]
        return patient[0][1]

    def charge(self, flow: dict, size: int) -> None:
        if flow["latency"]:
            if self.awake(False):
                self.owed += size * (self.share / (1.0 - self.share))
        else:
            if not self.awake(True):
                self.owed = min(self.owed, QUANTUM)
            self.owed = max(0.0, self.owed - size)
        flow["v"] += size / flow["weight"]
        self.raise_floor(flow["latency"])


class Against(RuleBasedStateMachine):
    """Anything that may happen to a scheduler, in any order."""

    flows = Bundle("flows")

    @initialize(share=st.sampled_from([0.0, 0.1, 0.5, 0.9]))
    def start(self, share: float) -> None:
        self.queue = _native.FairQueue(share, QUANTUM)
        self.model = Model(share)

    @rule(target=flows, weight=WEIGHTS, latency=st.booleans())
    def add(self, weight: float, latency: bool) -> int:
        flow = self.queue.add(weight, latency)
        assert flow not in self.model.flows
        self.model.add(flow, weight, latency)
        return flow

    @rule(flow=consumes(flows))
    def remove(self, flow: int) -> None:
        self.queue.remove(flow)
        self.model.sleep(self.model.flows[flow])
        del self.model.flows[flow]

    @rule(flow=flows)
    def wake(self, flow: int) -> None:
        self.queue.wake(flow)
        self.model.wake(self.model.flows[flow])

    @rule(flow=flows)
    def sleep(self, flow: int) -> None:
        self.queue.sleep(flow)
        self.model.sleep(self.model.flows[flow])

    @rule(flow=flows, weight=WEIGHTS)
    def set_weight(self, flow: int, weight: float) -> None:
        self.queue.set_weight(flow, weight)
        self.model.set_weight(self.model.flows[flow], weight)

    @rule(sizes=st.lists(st.integers(1, QUANTUM), min_size=1, max_size=30))
    def serve(self, sizes: list[int]) -> None:
        for size in sizes:
            flow = self.queue.next()
            assert flow == self.model.next()
            if flow is None:
                return
            self.queue.charge(flow, size)
            self.model.charge(self.model.flows[flow], size)

    @invariant()
    def virtual_runtimes_agree(self) -> None:
        if hasattr(self, "model"):
            for flow, state in self.model.flows.items():
                assert self.queue.virtual_runtime(flow) == state["v"]


TestAgainstModel = Against.TestCase


def serve(queue: _native.FairQueue, turns: int, size: int = QUANTUM) -> list[int]:
    """The flows served in `turns` turns of `size` bytes each."""
    served = []
    for _ in range(turns):
        flow = queue.next()
        assert flow is not None
        queue.charge(flow, size)
        served.append(flow)
    return served


def awake(queue: _native.FairQueue, weight: float = 1.0, latency: bool = False) -> int:
    flow = queue.add(weight, latency)
    queue.wake(flow)
    return flow


@given(
    weights=st.lists(st.sampled_from([1, 2, 3, 4, 8, 16]), min_size=2, max_size=8),
    latency=st.booleans(),
)
def test_no_flow_is_ever_more_than_a_chunk_from_its_share(weights: list[int], latency: bool):
    queue = _native.FairQueue(0.1, QUANTUM)
    flows = [awake(queue, weight, latency) for weight in weights]
    served = np.array(serve(queue, 400))
    due = np.outer(np.arange(1, 401), np.array(weights) / sum(weights))
    had = np.stack([np.cumsum(served == flow) for flow in flows], axis=1)
    # Start-time fair queueing: a chunk too many at most; too few by a chunk for each other flow.
    assert (had - due).max() <= 1 + 1e-9
    assert (due - had).max() <= len(flows) - 1 + 1e-9


def test_latency_flows_go_first_and_best_effort_keeps_its_share():
    queue = _native.FairQueue(0.1, QUANTUM)
    best_effort, urgent = awake(queue), awake(queue, latency=True)
    served = serve(queue, 1000)
    turns = [k for k, flow in enumerate(served) if flow == best_effort]
    assert set(served) == {best_effort, urgent}
    # Nine for latency, one for best effort, and so on: the first nine are latency's.
    assert turns == list(range(9, 1000, 10))


def test_small_best_effort_chunks_keep_the_share_in_bytes():
    queue = _native.FairQueue(0.2, QUANTUM)
    best_effort, urgent = awake(queue), awake(queue, latency=True)
    had = {best_effort: 0, urgent: 0}
    for _ in range(5000):
        flow = queue.next()
        assert flow is not None
        size = 10 if flow == best_effort else QUANTUM
        queue.charge(flow, size)
        had[flow] += size
    total = sum(had.values())
    assert had[best_effort] >= 0.2 * total - QUANTUM


def test_without_a_share_best_effort_waits_for_ever():
    queue = _native.FairQueue(0.0, QUANTUM)
    best_effort, urgent = awake(queue), awake(queue, latency=True)
    assert set(serve(queue, 500)) == {urgent}
    queue.sleep(urgent)
    assert queue.next() == best_effort


@given(before=st.integers(0, 25), size=st.sampled_from([1, 10, QUANTUM]))
def test_a_latency_flow_that_wakes_is_next(before: int, size: int):
    queue = _native.FairQueue(0.1, QUANTUM)
    awake(queue)
    urgent = awake(queue, latency=True)
    serve(queue, before)
    queue.sleep(urgent)
    serve(queue, 1, size)
    queue.wake(urgent)
    assert queue.next() == urgent


def test_sleep_earns_no_credit():
    queue = _native.FairQueue(0.1, QUANTUM)
    busy, sleeper = awake(queue), awake(queue)
    queue.sleep(sleeper)
    serve(queue, 10_000)
    queue.wake(sleeper)
    served = serve(queue, 100)
    assert abs(served.count(busy) - served.count(sleeper)) <= 1
    assert all(served[k : k + 3].count(sleeper) < 3 for k in range(98))


def test_a_new_flow_earns_no_credit_either():
    queue = _native.FairQueue(0.1, QUANTUM)
    old = awake(queue)
    serve(queue, 10_000)
    queue.sleep(old)
    new = awake(queue)
    queue.wake(old)
    served = serve(queue, 100)
    assert served.count(new) == served.count(old) == 50


def test_a_nap_does_not_forgive_what_was_taken_ahead():
    queue = _native.FairQueue(0.1, QUANTUM)
    greedy, other = awake(queue), awake(queue)
    assert serve(queue, 1) == [greedy]
    queue.sleep(greedy)
    queue.wake(greedy)
    assert serve(queue, 2) == [other, greedy]


def test_a_new_weight_holds_from_the_next_turn():
    queue = _native.FairQueue(0.1, QUANTUM)
    first, second = awake(queue), awake(queue)
    serve(queue, 200)
    queue.set_weight(first, 4.0)
    served = serve(queue, 500)
    assert served.count(first) == pytest.approx(400, abs=1)
    assert served.count(second) == pytest.approx(100, abs=1)


def test_what_makes_no_sense_is_refused():
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="best_effort_share"):
            _native.FairQueue(share, QUANTUM)
    with pytest.raises(ValueError, match="quantum"):
        _native.FairQueue(0.1, 0)
    queue = _native.FairQueue(0.1, QUANTUM)
    flow = queue.add(1.0, False)
    for weight in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="weight"):
            queue.add(weight, False)
        with pytest.raises(ValueError, match="weight"):
            queue.set_weight(flow, weight)
    with pytest.raises(ValueError, match="sleeps"):
        queue.charge(flow, 1)
    queue.remove(flow)
    for gone in (queue.wake, queue.sleep, queue.virtual_runtime, queue.remove):
        with pytest.raises(IndexError):
            gone(flow)
    assert queue.next() is None
