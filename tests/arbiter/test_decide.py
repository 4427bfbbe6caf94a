"""Who may launch, as a pure decision; and as a day of it under a virtual clock."""

import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missile_jax._native import TenantView, arbiter_limits, decide

LIMITS = arbiter_limits()
MS = 1_000_000
IDLE, WANTS, BUSY = {}, {"wants": True}, {"busy": True}


def tenants(*kinds):
    return [TenantView(**kind) for kind in kinds]


def test_nobody_gets_a_turn_who_wants_none():
    decision = decide(MS, tenants(IDLE, IDLE))
    assert decision.holder is None
    assert not decision.held_back
    assert not decision.contended
    assert decision.look_again_ns is None


def test_who_waits_gets_a_turn_for_a_bounded_time():
    decision = decide(MS, tenants(IDLE, WANTS))
    assert decision.holder == 1
    assert decision.until_ns == MS + LIMITS["lease_ns"]


def test_of_two_the_one_that_had_less_goes_first():
    ahead = {"wants": True, "vruntime_ns": 5.0}
    assert decide(MS, tenants(ahead, WANTS)).holder == 1


def test_latency_takes_the_turn_away_and_lets_nobody_have_it():
    end_ns = 10 * MS
    decision = decide(MS, tenants(BUSY, WANTS), latency_end_ns=end_ns, holder=0, until_ns=99 * MS)
    assert decision.holder is None
    assert decision.held_back
    assert decision.look_again_ns == end_ns
    alone = decide(MS, tenants(IDLE), latency_end_ns=end_ns)
    assert not alone.held_back


def test_a_claim_of_latency_ends():
    assert decide(10 * MS, tenants(WANTS), latency_end_ns=10 * MS).holder == 0


def test_a_turn_is_kept_and_renewed_while_nobody_waits():
    kept = decide(MS, tenants(IDLE), holder=0, until_ns=100 * MS)
    assert (kept.holder, kept.until_ns, kept.contended) == (0, 100 * MS, False)
    renewed = decide(60 * MS, tenants(BUSY), holder=0, until_ns=100 * MS)
    assert (renewed.holder, renewed.until_ns) == (0, 60 * MS + LIMITS["lease_ns"])


def test_a_turn_ends_after_a_quantum_if_another_waits():
    kinds = tenants({"busy": True, "vruntime_ns": 9.0 * MS}, WANTS)
    before = decide(9 * MS, kinds, holder=0, until_ns=99 * MS)
    assert (before.holder, before.contended) == (0, True)
    assert before.look_again_ns == LIMITS["quantum_ns"]
    after = decide(LIMITS["quantum_ns"], kinds, holder=0, until_ns=99 * MS)
    assert after.holder is None  # What it has in flight is waited for.
    clear = tenants({"vruntime_ns": 10.0 * MS}, WANTS)
    assert decide(LIMITS["quantum_ns"], clear, holder=0, until_ns=99 * MS).holder == 1


def test_a_turn_goes_on_until_it_has_had_its_weight():
    kinds = tenants({"busy": True, "weight": 2.0, "vruntime_ns": 5.0 * MS},
                    {"wants": True, "vruntime_ns": 9.0 * MS})  # fmt: skip
    decision = decide(10 * MS, kinds, holder=0, until_ns=99 * MS)
    assert decision.holder == 0
    assert decision.look_again_ns == 18 * MS


def test_who_has_nothing_in_flight_gives_the_turn_up_after_a_grace():
    kinds = tenants(IDLE, WANTS)
    kept = decide(MS, kinds, holder=0, until_ns=99 * MS, idle_since_ns=MS)
    assert kept.holder == 0
    assert kept.look_again_ns == MS + LIMITS["grace_ns"]
    given_up = decide(kept.look_again_ns, kinds, holder=0, until_ns=99 * MS, idle_since_ns=MS)
    assert given_up.holder == 1


def test_launches_of_another_are_waited_for_with_bounded_patience():
    kinds = tenants({"busy": True, "patience_end_ns": 50 * MS}, WANTS)
    waits = decide(MS, kinds)
    assert waits.holder is None
    assert waits.look_again_ns == 50 * MS
    assert decide(50 * MS, kinds).holder == 1


def test_nobody_waits_for_launches_of_its_own():
    assert (
        decide(MS, tenants({"busy": True, "wants": True, "patience_end_ns": 50 * MS})).holder == 0
    )


def test_a_new_arbiter_gives_no_turn_before_the_others_are_back():
    decision = decide(MS, tenants(WANTS), settled_ns=10 * MS)
    assert decision.holder is None
    assert decision.look_again_ns == 10 * MS
    assert decide(10 * MS, tenants(WANTS), settled_ns=10 * MS).holder == 0


def test_a_holder_that_is_nobody_is_refused():
    with pytest.raises(ValueError, match="index of a tenant, got 2"):
        decide(MS, tenants(IDLE, IDLE), holder=2)


VIEWS = st.builds(
    TenantView,
    wants=st.booleans(),
    busy=st.booleans(),
    weight=st.floats(1e-3, 1e3),
    vruntime_ns=st.floats(0, 1e18),
    patience_end_ns=st.integers(0, 10**10),
)


@given(
    now_ns=st.integers(1, 10**10),
    views=st.lists(VIEWS, min_size=1, max_size=5),
    latency_end_ns=st.integers(0, 10**10),
    holder=st.none() | st.integers(0, 4),
    held_since_ns=st.integers(0, 10**10),
    idle_since_ns=st.none() | st.integers(0, 10**10),
)
def test_whatever_is_seen(now_ns, views, latency_end_ns, holder, held_since_ns, idle_since_ns):
    holder = None if holder is None or holder >= len(views) else holder
    decision = decide(
        now_ns, views, latency_end_ns=latency_end_ns, holder=holder,
        held_since_ns=min(held_since_ns, now_ns), until_ns=now_ns + 1,
        idle_since_ns=None if idle_since_ns is None else min(idle_since_ns, now_ns),
    )  # fmt: skip
    if latency_end_ns > now_ns:
        assert decision.holder is None
    if decision.holder is not None:
        assert now_ns < decision.until_ns <= now_ns + LIMITS["lease_ns"]
    if decision.look_again_ns is not None:
        assert decision.look_again_ns > now_ns
        longest_ns = max(LIMITS["most_patience_ns"], 10**10)
        assert decision.look_again_ns <= now_ns + longest_ns


class Day:
    """Best-effort tenants that launch back to back, and LS launches between, in virtual time.

    What the arbiter does with pages is done here with fields: see `Arbiter::Look`.
    """

    def __init__(self, weights, launch_ns, gap_ns=0):
        self.weights, self.launch_ns, self.gap_ns = weights, launch_ns, gap_ns
        self.now_ns = 1
        self.wants = [True] * len(weights)
        self.ends_ns = [0] * len(weights)  # Of the launch in flight; 0 for none.
        self.vruntime_ns = [0.0] * len(weights)
        self.patience_ns = [0] * len(weights)
        self.ran_ns = [0] * len(weights)
        self.waited_ns = [0] * len(weights)
        self.holder = self.charged = None
        self.held_since_ns = self.until_ns = self.charged_ns = 0
        self.idle_since_ns = None
        self.latency_end_ns = 0
        self.events = []
        self.overlaps = 0

    def look(self):
        while True:
            if self.charged is not None:
                spent_ns = self.now_ns - self.charged_ns
                self.vruntime_ns[self.charged] += spent_ns / self.weights[self.charged]
                self.charged_ns = self.now_ns
                if self.charged != self.holder and not self.ends_ns[self.charged]:
                    self.charged = None
            if self.holder is not None:
                busy = self.ends_ns[self.holder] or self.wants[self.holder]
                self.idle_since_ns = None if busy else self.idle_since_ns or self.now_ns
            views = [
                TenantView(wants=w, busy=e > 0, weight=x, vruntime_ns=v, patience_end_ns=p)
                for w, e, x, v, p in zip(
                    self.wants, self.ends_ns, self.weights, self.vruntime_ns, self.patience_ns,
                    strict=True,
                )
            ]  # fmt: skip
            decision = decide(
                self.now_ns, views, latency_end_ns=self.latency_end_ns, holder=self.holder,
                held_since_ns=self.held_since_ns, until_ns=self.until_ns,
                idle_since_ns=self.idle_since_ns,
            )  # fmt: skip
            if self.holder is not None and decision.holder != self.holder:
                self.patience_ns[self.holder] = self.now_ns + LIMITS["least_patience_ns"]
                self.holder = None
                continue
            if decision.holder != self.holder:
                self.holder = self.charged = decision.holder
                self.held_since_ns = self.charged_ns = self.now_ns
                self.idle_since_ns = None
            self.until_ns = decision.until_ns
            return decision.look_again_ns

    def launch(self):
        if self.holder is None or not self.wants[self.holder] or self.ends_ns[self.holder]:
            return False
        self.overlaps += any(end > 0 for end in self.ends_ns)
        self.wants[self.holder] = False
        self.ends_ns[self.holder] = self.now_ns + self.launch_ns[self.holder]
        heapq.heappush(self.events, (self.ends_ns[self.holder], self.holder))
        return True

    def run(self, end_ns, latency=()):
        arrivals = list(latency)
        while self.now_ns < end_ns:
            again_ns = self.look()
            if self.launch():
                continue
            times = [end_ns] + [event[0] for event in self.events[:1]]
            times += [again_ns] if again_ns is not None else []
            times += arrivals[:1]
            before_ns, self.now_ns = self.now_ns, max(min(times), self.now_ns)
            for k, wants in enumerate(self.wants):
                self.waited_ns[k] += (self.now_ns - before_ns) * wants
            if arrivals and self.now_ns >= arrivals[0]:
                self.latency_end_ns = arrivals.pop(0) + 4 * MS
            while self.events and self.events[0][0] <= self.now_ns:
                _, k = heapq.heappop(self.events)
                if self.ends_ns[k]:
                    self.ran_ns[k] += self.launch_ns[k]
                    self.ends_ns[k] = 0
                    heapq.heappush(self.events, (self.now_ns + self.gap_ns, k))
                else:
                    self.wants[k] = True


@pytest.mark.parametrize("launch_ns", [MS // 2, 4 * MS, 30 * MS])
def test_shares_follow_weights_and_no_two_overlap(launch_ns):
    weights = [1.0, 2.0, 4.0]
    day = Day(weights, [launch_ns, launch_ns, launch_ns], gap_ns=50_000)
    day.run(20_000 * MS)
    assert day.overlaps == 0
    total = sum(day.ran_ns)
    assert total > 0.85 * 20_000 * MS
    for weight, ran_ns in zip(weights, day.ran_ns, strict=True):
        assert ran_ns / total == pytest.approx(weight / 7, rel=0.1)


def test_long_launches_have_no_more_than_their_share():
    day = Day([1.0, 1.0], [1 * MS, 40 * MS], gap_ns=20_000)
    day.run(20_000 * MS)
    assert day.ran_ns[0] / sum(day.ran_ns) == pytest.approx(0.5, abs=0.05)


def test_latency_is_between_launches_and_the_rest_is_best_effort_s():
    rng = random.Random(0)
    arrivals, at_ns = [], 0
    while at_ns < 10_000 * MS:
        at_ns += 4 * MS + round(rng.expovariate(1 / (16 * MS)))
        arrivals.append(at_ns)
    day = Day([1.0, 1.0], [2 * MS, 2 * MS])
    day.run(10_000 * MS, arrivals)
    left_ns = 10_000 * MS - 4 * MS * len(arrivals)
    assert sum(day.ran_ns) > 0.9 * left_ns
    assert day.ran_ns[0] / sum(day.ran_ns) == pytest.approx(0.5, abs=0.05)
