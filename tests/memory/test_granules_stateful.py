"""Any order of calls on a pool of granules and its arena, beside a model of both."""

import os

from granule_maps import KIB, PAGE
from granule_model import Model, Owner
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

PICK = st.integers(0, 1 << 16)
CHANNELS = 6
SETS = st.sets(st.integers(0, CHANNELS - 1), min_size=1).map(sorted)


class Pools(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1 << 16))
    def start(self, seed):
        self.model = Model(4, 128 * KIB, CHANNELS, seed)

    def pick(self, index: int) -> Owner | None:
        owners = self.model.owners
        return owners[index % len(owners)] if owners else None

    @rule(count=st.integers(1, 8) | st.integers(1, 40), channels=SETS | st.just([*range(CHANNELS)]))
    def allocate(self, count, channels):
        self.model.allocate(count, channels)

    @rule(size=st.integers(1, PAGE) | st.integers(1, 3 * PAGE))
    def allocate_block(self, size):
        self.model.allocate_block(size)

    @rule(index=PICK)
    def release_block(self, index):
        self.model.release_block(index)

    @rule()
    def compact(self):
        self.model.compact()

    @rule(index=PICK, what=st.sampled_from(["pin", "unpin", "release", "drop"]))
    def change(self, index, what):
        if (owner := self.pick(index)) is not None:
            getattr(self.model, what)(owner)

    @rule(index=PICK, channels=SETS)
    def recolour(self, index, channels):
        if (owner := self.pick(index)) is not None:
            self.model.recolour(owner, channels)

    @rule()
    def gather(self):
        self.model.gather()

    @invariant()
    def everything_holds(self):
        if hasattr(self, "model"):
            self.model.check()

    def teardown(self):
        if hasattr(self, "model"):
            self.model.end()


TestPools = Pools.TestCase
# 60 calls each: 10,000 here, ten times as many where `make soak` asks for them.
EXAMPLES = int(os.environ.get("GRANULE_EXAMPLES", "160"))
TestPools.settings = settings(max_examples=EXAMPLES, stateful_step_count=60, deadline=None)
