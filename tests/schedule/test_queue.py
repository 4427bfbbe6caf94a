"""The queue against a list: order, levels, limit, standings, removal and batches."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from missile_jax.schedule.queue import RequestQueue
from missile_jax.schedule.slo import Standing, standing


@dataclass(eq=False)
class Ask:
    rows: int
    length: int
    arrival_ns: int = 0
    due_ns: int = 0
    level: int = 1
    work_ns: int = 0


class QueueMachine(RuleBasedStateMachine):
    """`model` is what waits in its order; `found` are the standings of those that are not in time.

    Time goes on with each look. Groups are by standing, then level; who is moved comes last there.
    """

    asks = Bundle("asks")

    def __init__(self):
        super().__init__()
        self.queue = RequestQueue(limit=4)
        self.model = []
        self.found = {}
        self.now_ns = 0

    def place(self, ask):
        return (self.found.get(ask, Standing.IN_TIME), ask.level)

    @rule(
        target=asks,
        rows=st.integers(1, 4),
        length=st.sampled_from([0, 16]),
        level=st.integers(1, 3),
        work_ns=st.integers(0, 5),
        allowed_ns=st.integers(1, 8),
    )
    def push(self, rows, length, level, work_ns, allowed_ns):
        now_ns = self.now_ns
        ask = Ask(rows, length, now_ns, now_ns + allowed_ns, level=level, work_ns=work_ns)
        self.queue.push(ask)
        self.model = sorted([*self.model, ask], key=self.place)
        return ask

    @rule(passed_ns=st.integers(0, 40), usual_ns=st.integers(0, 5))
    def judge(self, passed_ns, usual_ns):
        self.now_ns += passed_ns
        moved = False
        for least in (Standing.OVERDUE, Standing.LATE):
            while among := [a for a in self.model if self.place(a)[0] >= least]:
                ask = among[0]
                now = standing(ask, self.now_ns, usual_ns)
                if now is self.place(ask)[0]:
                    break
                self.model.remove(ask)
                self.found[ask] = now
                self.model = sorted([*self.model, ask], key=self.place)
                moved = True
        assert self.queue.judge(self.now_ns, usual_ns) == moved

    @rule(ask=asks)
    def remove(self, ask):
        assert self.queue.remove(ask) == (ask in self.model)
        if ask in self.model:
            self.model.remove(ask)
            self.found.pop(ask, None)

    @rule(max_rows=st.integers(0, 8))
    def take_batch(self, max_rows):
        batch = self.queue.take_batch(max_rows)
        for ask in batch:
            self.found.pop(ask, None)
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
        self.found = {}

    @invariant()
    def same_content(self):
        assert list(self.queue) == self.model
        assert len(self.queue) == len(self.model)
        assert self.queue.head() is (self.model[0] if self.model else None)
        first = self.place(self.model[0])[0] if self.model else Standing.IN_TIME
        assert self.queue.standing is first
        assert self.queue.full == (len(self.model) >= 4)
        for level in range(4):
            place = (Standing.IN_TIME, level)
            ahead = [a.work_ns for a in self.model if self.place(a) <= place]
            assert self.queue.ahead_ns(level) == sum(ahead)
        assert self.queue.work_ns == sum(a.work_ns for a in self.model)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=30)


def test_those_in_time_go_before_those_that_are_late_until_these_have_waited_long():
    queue = RequestQueue(limit=9)
    first = Ask(1, 0, arrival_ns=0, due_ns=10)
    second = Ask(1, 0, arrival_ns=11, due_ns=21)
    queue.push(first)
    queue.push(second)
    assert queue.head() is first
    assert queue.judge(11, 0)
    assert (queue.head(), queue.standing) == (second, Standing.IN_TIME)
    assert not queue.judge(20, 0)
    later = Ask(1, 0, arrival_ns=95, due_ns=105)
    queue.push(later)
    queue.judge(100, 0)
    assert list(queue) == [first, later, second]
    assert queue.standing is Standing.OVERDUE
