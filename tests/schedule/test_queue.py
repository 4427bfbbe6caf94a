"""The queue against a list: order, levels, limit, removal and batches."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from missile_jax.schedule.queue import RequestQueue


@dataclass(eq=False)
class Ask:
    rows: int
    length: int
    arrival_ns: int = 0
    due_ns: int = 0
    level: int = 1
    work_ns: int = 0


class QueueMachine(RuleBasedStateMachine):
    """`model` is what waits, in the order of arrival, sorted by level: sorts are stable."""

    asks = Bundle("asks")

    def __init__(self):
        super().__init__()
        self.queue = RequestQueue(limit=4)
        self.model = []

    @rule(
        target=asks,
        rows=st.integers(1, 4),
        length=st.sampled_from([0, 16]),
        level=st.integers(1, 3),
        work_ns=st.integers(0, 5),
    )
    def push(self, rows, length, level, work_ns):
        ask = Ask(rows, length, level=level, work_ns=work_ns)
        self.queue.push(ask)
        self.model = sorted([*self.model, ask], key=lambda a: a.level)
        return ask

    @rule(ask=asks)
    def remove(self, ask):
        assert self.queue.remove(ask) == (ask in self.model)
        if ask in self.model:
            self.model.remove(ask)

    @rule(max_rows=st.integers(0, 8))
    def take_batch(self, max_rows):
        batch = self.queue.take_batch(max_rows)
        count = len(batch)
        assert batch == self.model[:count]
        rest = self.model[count:]
        if self.model:
            assert count >= 1
            assert len({a.length for a in batch}) == 1
            assert count == 1 or sum(a.rows for a in batch) <= max_rows
        if batch and rest:
            # Greedy: the next one did not fit.
            fits = sum(a.rows for a in batch) + rest[0].rows <= max_rows
            assert not (fits and rest[0].length == batch[0].length)
        self.model = rest

    @rule()
    def clear(self):
        assert self.queue.clear() == self.model
        self.model = []

    @invariant()
    def same_content(self):
        assert list(self.queue) == self.model
        assert len(self.queue) == len(self.model)
        assert self.queue.head() is (self.model[0] if self.model else None)
        assert self.queue.full == (len(self.model) >= 4)
        for level in range(4):
            ahead = [a.work_ns for a in self.model if a.level <= level]
            assert self.queue.ahead_ns(level) == sum(ahead)
        assert self.queue.work_ns == sum(a.work_ns for a in self.model)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=30)
