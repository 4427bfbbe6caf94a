"""Every interleaving of the arbiter's protocol, as docs/arbiter.md tells it.

Two best-effort tenants and a latency-sensitive one launch, against an arbiter that looks when it is
rung. Each step is one load, store or read-modify-write of the native code, but what the arbiter
publishes at a time is one step. Any process may do the next one. There is no time: turns last, and
nobody is lost.
"""

import pytest

BE, LS = ("a", "b"), "ls"


class Model:
    """a, b, ls: launches of each tenant.

    turned: pairs of steps that are done in the wrong order, to see that it is noticed.
    """

    def __init__(self, a=1, b=1, ls=1, turned=()):
        self.launches = {"a": a, "b": b, "ls": ls}
        self.turned = frozenset(turned)

    def start(self):
        return {
            **{name: ("count", launches) for name, launches in self.launches.items()},
            "arbiter": ("sleep",),
            "in_flight_a": 0, "in_flight_b": 0, "in_flight_ls": 0,
            "wanting_a": 0, "wanting_b": 0, "bell_a": 0, "bell_b": 0,
            "turn": None, "open": 0, "held_back": 0, "contended": 0,
            "rung": 0, "running": frozenset(),
        }  # fmt: skip

    def steps(self, state):
        """The states that may follow."""
        for name in (*BE, LS, "arbiter"):
            after = dict(state)
            act = self.arbiter if name == "arbiter" else self.latency if name == LS else self.effort
            if act(after, name):
                yield after

    def effort(self, s, me):
        step, *rest = s[me]
        count, turn, bell = f"in_flight_{me}", s["turn"] == me, f"bell_{me}"
        early = "be looks before it counts" in self.turned
        match step:
            case "count":
                if rest[0] == 0:
                    return False
                if early:
                    s[me] = ("counts late", turn, rest[0])
                else:
                    s[count] = 1
                    s[me] = ("reads turn", rest[0])
            case "counts late":
                s[count] = 1
                s[me] = ("runs", rest[1]) if rest[0] else ("takes back", rest[1])
                if rest[0]:
                    s["running"] |= {me}
            case "reads turn":
                s[me] = ("runs", rest[0]) if turn else ("takes back", rest[0])
                if turn:
                    s["running"] |= {me}
            case "takes back":
                s[count] = 0
                s[me] = ("wants", rest[0])
            case "wants":
                s[f"wanting_{me}"] = 1
                s[me] = ("rings", rest[0])
            case "rings":
                s["rung"] = 1
                s[me] = ("reads bell", rest[0])
            case "reads bell":
                s[me] = ("tries", s[bell], rest[0])
            case "tries":
                s[count] = 1
                s[me] = ("tries turn", *rest)
            case "tries turn":
                if turn:
                    s["running"] |= {me}
                    s[me] = ("wants no more", rest[1])
                else:
                    s[me] = ("gives up", *rest)
            case "gives up":
                s[count] = 0
                s[me] = ("rings again", *rest)
            case "rings again":
                # As GoBack(): nothing is in flight, and the turn is not its own.
                if s["turn"] != me or s["contended"]:
                    s["rung"] = 1
                s[me] = ("sleeps", *rest)
            case "sleeps":
                if s[bell] == rest[0]:
                    return False
                s[me] = ("reads bell", rest[1])
            case "wants no more":
                s[f"wanting_{me}"] = 0
                s[me] = ("runs", rest[0])
            case "runs":
                if "be leaves after it looks" in self.turned:
                    s[me] = ("counts out late", turn and not s["contended"], rest[0])
                else:
                    s["running"] -= {me}
                    s[count] = 0
                    s[me] = ("left", rest[0])
            case "counts out late":
                s["running"] -= {me}
                s[count] = 0
                s["rung"] |= not rest[0]
                s[me] = ("count", rest[1] - 1)
            case "left":
                if not turn or s["contended"]:
                    s["rung"] = 1
                s[me] = ("count", rest[0] - 1)
        return True

    def latency(self, s, me):
        step, *rest = s[me]
        match step:
            case "count":
                if rest[0] == 0:
                    return False
                if "ls looks before it counts" in self.turned:
                    s[me] = ("counts late", s["open"])
                else:
                    s["in_flight_ls"] = 1
                    s[me] = ("reads open",)
            case "counts late":
                s["in_flight_ls"] = 1
                s["rung"] |= rest[0]
                s[me] = ("runs",)
            case "reads open":
                s["rung"] |= s["open"]
                s[me] = ("runs",)
            case "runs":
                s["in_flight_ls"] = 0
                s[me] = ("left",)
            case "left":
                s["rung"] |= s["held_back"]
                s[me] = ("count", 0)
        return True

    def arbiter(self, s, _):
        """Each look is a sequence of loads; then flags, and the turn, are published."""
        step, *rest = s["arbiter"]
        match step:
            case "sleep":
                if not s["rung"]:
                    return False
                s["rung"] = 0
                s["arbiter"] = ("sees", ())
            case "sees":
                words = ("in_flight_ls", "wanting_a", "in_flight_a", "wanting_b", "in_flight_b")
                seen = (*rest[0], s[words[len(rest[0])]])
                s["arbiter"] = ("publishes", seen) if len(seen) == 5 else ("sees", seen)
            case "publishes":
                self.publish(s, rest[0])
        return True

    def publish(self, s, seen):
        ls, wants_a, busy_a, wants_b, busy_b = seen
        wants, busy = {"a": wants_a, "b": wants_b}, {"a": busy_a, "b": busy_b}
        holder = s["turn"]
        waiting = [name for name in BE if wants[name] and name != holder]
        again = ("sees", ())
        held_back, contended, to = 0, 0, None
        if ls:
            held_back = int(any(wants.values()))
        elif holder is not None and not (waiting and not busy[holder] and not wants[holder]):
            to, contended = holder, int(bool(waiting))
        elif waiting:
            contended = 1
            if not any(busy[name] for name in BE if name != waiting[0]):
                to = waiting[0]
        if (s["held_back"], s["contended"]) != (held_back, contended):
            s["held_back"], s["contended"] = held_back, contended
            s["arbiter"] = again
            if "arbiter looks once" in self.turned:
                s["arbiter"] = ("sleep",)
            return
        if holder is not None and holder != to:
            s["turn"] = None
            s[f"bell_{holder}"] += 1
            if "arbiter gives without another look" in self.turned and to is not None:
                s["turn"] = to
                s[f"bell_{to}"] += 1
            s["arbiter"] = again
            return
        if to is None:
            s["arbiter"] = ("sleep",) if not s["open"] else again
            s["open"] = 0
            return
        gives_at_once = "arbiter gives and looks no more" in self.turned
        if not s["open"] and not gives_at_once:
            s["open"] = 1
            s["arbiter"] = again
            return
        s["open"] = 1
        s["arbiter"] = ("sleep",) if gives_at_once or s["turn"] == to else again
        if s["turn"] != to:
            s["turn"] = to
            s[f"bell_{to}"] += 1


def explore(model):
    """How many states there are, and what is wrong with the first bad one, if any."""
    first = model.start()
    seen, todo = {tuple(first.values())}, [first]
    while todo:
        state = todo.pop()
        if len(state["running"]) > 1:
            return len(seen), "two launches at a time"
        after = list(model.steps(state))
        if not after:
            done = all(state[name] == ("count", 0) for name in (*BE, LS))
            if not done:
                return len(seen), "somebody sleeps for ever"
            continue
        # The arbiter that has nothing more to do has published a turn while LS is at work.
        idle = state["arbiter"] == ("sleep",) and not state["rung"]
        if idle and state["ls"] == ("runs",) and state["turn"] is not None:
            return len(seen), "a turn beside latency-sensitive work"
        for one in after:
            key = tuple(one.values())
            if key not in seen:
                seen.add(key)
                todo.append(one)
    return len(seen), None


@pytest.mark.parametrize("launches", [(2, 2, 0), (2, 0, 1), (1, 1, 1)], ids=str)
def test_nobody_sleeps_for_ever_and_no_two_launch_at_a_time(launches):
    states, wrong = explore(Model(*launches))
    assert wrong is None
    assert states > 10_000


@pytest.mark.parametrize(
    ("turned", "launches", "wrong"),
    [
        ("be looks before it counts", (2, 1, 0), "two launches at a time"),
        ("be leaves after it looks", (1, 1, 1), "somebody sleeps for ever"),
        ("ls looks before it counts", (2, 0, 1), "a turn beside latency-sensitive work"),
        ("arbiter looks once", (1, 1, 1), "somebody sleeps for ever"),
        ("arbiter gives without another look", (2, 1, 0), "two launches at a time"),
        ("arbiter gives and looks no more", (2, 0, 1), "a turn beside latency-sensitive work"),
    ],
)
def test_an_order_that_is_turned_round_is_found(turned, launches, wrong):
    assert explore(Model(*launches, [turned]))[1] == wrong
