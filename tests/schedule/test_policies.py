"""Policies as pure functions: what they promise, for any view."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missile_jax.errors import ConfigError
from missile_jax.schedule.policies import Concurrent, Fifo, Missile, make_policy, policy_names
from missile_jax.schedule.slo import Standing, Urgency
from missile_jax.schedule.view import Launch, ModelView, View

FAR_NS = 2**62


@st.composite
def views(draw):
    """What an engine could show: models with work, and in-flight counts that add up."""
    models = []
    for name in draw(st.lists(st.sampled_from("abcdef"), unique=True, max_size=6)):
        model = ModelView(
            name,
            latency=draw(st.booleans()),
            queued=draw(st.integers(0, 3)),
            paused=draw(st.integers(0, 2)),
            in_flight=draw(st.integers(0, 1)),
            arrival_ns=draw(st.integers(0, 5)),
            urgency=Urgency(
                draw(st.sampled_from(Standing)), draw(st.integers(0, 5) | st.just(FAR_NS))
            ),
            vruntime_ns=float(draw(st.integers(0, 3))),
            piece_ns=draw(st.integers(0, 9)),
        )
        if model.launchable or model.in_flight:
            models.append(model)
    now_ns = draw(st.integers(5, 3_000_000_000))
    return View(
        now_ns,
        tuple(models),
        tuple(m.piece_ns for m in models if m.latency for _ in range(m.in_flight)),
        sum(m.in_flight for m in models if not m.latency),
        draw(st.integers(0, now_ns) | st.just(-FAR_NS)),
        draw(st.sampled_from([0.0, 0.05, 0.2, 1.0])),
        draw(st.booleans()),
    )


missiles = st.builds(
    Missile,
    beside=st.booleans(),
    calm_ms=st.sampled_from([0.0, 1000.0]),
    best_effort_floor=st.sampled_from([0.0, 0.1]),
    latency_launches=st.integers(1, 3),
)
policies = missiles | st.just(Fifo()) | st.builds(Concurrent, st.integers(1, 4))


def waiting(view, latency):
    return [m for m in view.models if m.latency is latency and m.launchable]


def launched(view, policy, latency):
    by_name = {m.name: m for m in view.models}
    return [x for x in policy.decide(view) if by_name[x.model].latency is latency]


@given(view=views(), policy=policies)
def test_only_models_with_work_are_launched_each_once(view, policy):
    names = [launch.model for launch in policy.decide(view)]
    assert len(set(names)) == len(names)
    assert set(names) <= {m.name for m in view.models if m.launchable}


@given(view=views(), policy=policies)
def test_a_decision_depends_on_the_view_alone(view, policy):
    shuffled = view._replace(models=view.models[::-1])
    assert policy.decide(view) == policy.decide(view) == policy.decide(shuffled)


@given(view=views(), policy=policies)
def test_an_idle_device_is_not_left_idle(view, policy):
    idle = view._replace(latency_pieces_ns=(), best_effort_in_flight=0)
    if any(m.launchable for m in view.models):
        assert policy.decide(idle)


@pytest.mark.smoke
@given(view=views(), policy=missiles)
def test_missile_holds_best_effort_back_while_latency_wants_the_device(view, policy):
    wanted = waiting(view, True) or view.latency_in_flight
    owed = view.best_effort_share < policy.best_effort_floor
    if wanted and not owed:
        assert not launched(view, policy, False)


@given(view=views(), policy=missiles)
def test_missile_runs_no_more_of_each_class_than_it_says(view, policy):
    most = policy.abreast(True)
    assert most == (policy.latency_launches if policy.beside else 1)
    short = 1 if policy.beside else 0
    assert len(launched(view, policy, True)) <= max(0, most + short - view.latency_in_flight)
    assert len(launched(view, policy, False)) <= max(0, 1 - view.best_effort_in_flight)


@given(view=views(), policy=missiles)
def test_missile_serves_latency_at_once_unless_told_to_wait(view, policy):
    free = not (view.latency_in_flight or (view.best_effort_in_flight and not policy.beside))
    if waiting(view, True) and free and view.best_effort_share >= policy.best_effort_floor:
        assert launched(view, policy, True)


@given(view=views(), policy=missiles)
def test_missile_not_beside_never_overlaps(view, policy):
    if not policy.beside and view.latency_in_flight == 0:
        in_flight = view.best_effort_in_flight
        assert in_flight + len(policy.decide(view)) <= max(1, in_flight)


@given(view=views(), policy=missiles)
def test_missile_serves_the_most_urgent_first(view, policy):
    launches = launched(view, policy, True)[: max(0, policy.abreast(True) - view.latency_in_flight)]
    urgency = {m.name: m.urgency for m in view.models}
    first = sorted(m.urgency for m in waiting(view, True))[: len(launches)]
    assert [urgency[launch.model] for launch in launches] == first
    assert all(launch.whole for launch in launches)


@given(view=views(), policy=missiles)
def test_missile_goes_beyond_its_bound_for_one_that_is_short_alone(view, policy):
    piece_ns = {m.name: m.piece_ns for m in view.models}
    launches = launched(view, policy, True)
    room = max(0, policy.abreast(True) - view.latency_in_flight)
    running_ns = [*view.latency_pieces_ns, *(piece_ns[x.model] for x in launches[:room])]
    beyond = [piece_ns[launch.model] for launch in launches[room:]]
    assert all(0 < 2 * short_ns <= min(running_ns) for short_ns in beyond)
    if policy.beside and len(running_ns) == policy.abreast(True) and not beyond:
        left = {m.name for m in waiting(view, True)} - {x.model for x in launches}
        assert not any(0 < 2 * piece_ns[name] <= min(running_ns) for name in left)


@given(view=views(), policy=missiles)
def test_missile_takes_the_best_effort_model_that_is_furthest_behind(view, policy):
    for launch in launched(view, policy, False):
        had = {m.name: m.vruntime_ns for m in view.models}
        assert had[launch.model] == min(m.vruntime_ns for m in waiting(view, False))


@given(view=views(), policy=missiles)
def test_missile_runs_whole_jobs_only_when_calm_or_where_they_yield(view, policy):
    quiet_ns = view.now_ns - view.last_latency_ns
    calm = quiet_ns > policy.calm_ms * 1e6 and not (waiting(view, True) or view.latency_in_flight)
    for launch in launched(view, policy, False):
        assert launch.whole == (calm or view.yields)


def test_missile_that_owes_best_effort_launches_both():
    urgency = Urgency(Standing.IN_TIME, 0)
    late = ModelView("ls", True, 1, 0, 0, 0, urgency, 0.0)
    starved = ModelView("be", False, 1, 0, 0, 0, urgency, 0.0)
    view = View(10, (late, starved), (), 0, 10, 0.0)
    both = [Launch("be", whole=False), Launch("ls", whole=True)]
    assert Missile(best_effort_floor=0.1).decide(view) == both
    assert Missile(best_effort_floor=0.1, beside=False).decide(view) == both[:1]


@given(view=views())
def test_fifo_runs_one_whole_job_the_oldest(view):
    launches = Fifo().decide(view)
    ready = [m for m in view.models if m.launchable]
    busy = view.latency_in_flight + view.best_effort_in_flight
    assert len(launches) == (1 if ready and not busy else 0)
    for launch in launches:
        arrived = {m.name: m.arrival_ns for m in view.models}
        assert arrived[launch.model] == min(m.arrival_ns for m in ready)
        assert launch.whole


@given(view=views(), bound=st.integers(1, 4))
def test_concurrent_fills_the_device_up_to_its_bound(view, bound):
    launches = Concurrent(bound).decide(view)
    busy = view.latency_in_flight + view.best_effort_in_flight
    ready = sum(m.launchable for m in view.models)
    assert len(launches) == min(ready, max(0, bound - busy))


def test_policies_by_name():
    assert [make_policy(name).name for name in policy_names()] == list(policy_names())
    own = Missile(calm_ms=5)
    assert make_policy(own) is own
    with pytest.raises(ConfigError, match="allowed: missile, concurrent, fifo"):
        make_policy("lifo")


@pytest.mark.parametrize(
    "fields", [{"best_effort_floor": 1.0}, {"calm_ms": -1.0}, {"latency_launches": 0}]
)
def test_impossible_settings_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        Missile(**fields)


def test_schedule_imports_no_jax():
    # The package's own __init__ imports everything, so it is replaced by a bare one.
    code = (
        "import sys, types, pathlib, importlib.util as u\n"
        "home = pathlib.Path(u.find_spec('missile_jax').origin).parent\n"
        "bare = types.ModuleType('missile_jax'); bare.__path__ = [str(home)]\n"
        "sys.modules['missile_jax'] = bare\n"
        "import missile_jax.schedule.policies, missile_jax.schedule.queue\n"
        "import missile_jax.schedule.shares\n"
        "assert not {'jax', 'jaxlib', 'flax'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
