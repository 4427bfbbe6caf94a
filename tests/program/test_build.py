"""Plans: wherever a program is cut, its segments compute what the whole does."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from missile_jax.program import build
from missile_jax.program.build import TOLERANCE, Builder
from missile_jax.program.compile import compilations
from missile_jax.program.costs import EstimatedCosts
from missile_jax.program.cut import places
from missile_jax.program.trace import trace


def rand(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def planned(builder, fn, params, inputs, *, segmented=True):
    """The plan of ``fn(params, inputs)``, its parameter leaves and its input leaves."""
    traced = trace(fn, params, inputs)
    leaves = [*jax.tree.leaves(params), *traced.hoisted]
    inputs = jax.tree.leaves(inputs)
    return builder.build(traced, leaves, inputs, segmented=segmented), leaves, inputs


def bits(results):
    return [np.asarray(r).tobytes() for r in results]


def difference(plan, leaves, inputs):
    """Largest error of the segments relative to the largest value of the leaf."""
    pairs = zip(plan.run(leaves, inputs), plan.run(leaves, inputs, whole=True), strict=True)
    return max(build._relative_error(np.asarray(a), np.asarray(b)) for a, b in pairs)


def attention(params, inputs):
    """A layer with a mask and two skip connections: several values live at once."""
    x, mask = inputs["x"], inputs["mask"]
    q, k, v = (jnp.einsum("bld,de->ble", x, params[n]) for n in "qkv")
    scores = jnp.einsum("bqe,bke->bqk", q, k)
    scores = jnp.where(mask[:, None, :], scores, jnp.float32(-1e9))
    x = x + jnp.einsum("bqk,bke->bqe", jax.nn.softmax(scores), v)
    return {"out": jnp.tanh(jnp.einsum("bld,de->ble", x, params["o"])) + x, "mask": mask}


WEIGHTS = {n: rand(8, 8, seed=k) / 3 for k, n in enumerate("qkvo")}
INPUTS = {"x": rand(2, 6, 8), "mask": np.arange(12).reshape(2, 6) % 5 > 0}


@pytest.fixture(scope="module")
def layer(builder):
    """The plan of the layer, its leaves and its inputs."""
    return planned(builder, attention, WEIGHTS, INPUTS)


@pytest.mark.smoke
def test_segments_compute_what_the_whole_does(layer):
    plan, leaves, inputs = layer
    assert len(plan.segments) > 2  # How many depends on how long they take.
    # A value crosses more than one cut: it is live beside what the segments in between make.
    written = {slot: k for k, s in enumerate(plan.segments) for slot in s.writes}
    assert any(
        k - written.get(slot, -1) > 2 for k, s in enumerate(plan.segments) for slot in s.reads
    )
    want = jax.tree.leaves(jax.jit(attention)(WEIGHTS, INPUTS))
    for got, expected in zip(plan.run(leaves, inputs), want, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    assert plan.max_relative_error <= TOLERANCE
    assert not plan.not_cut


def test_a_segmented_plan_gives_the_same_bits_every_time(layer):
    plan, leaves, inputs = layer
    first = bits(plan.run(leaves, inputs))
    assert all(bits(plan.run(leaves, inputs)) == first for _ in range(5))


def test_bit_identity_is_recorded_as_it_is(layer):
    plan, leaves, inputs = layer
    same = bits(plan.run(leaves, inputs)) == bits(plan.run(leaves, inputs, whole=True))
    assert plan.bit_identical == same
    assert plan.max_relative_error == difference(plan, leaves, inputs)


def test_values_are_dropped_after_their_last_use(layer):
    plan, leaves, inputs = layer
    slots = plan.start(inputs)
    for segment in plan.segments:
        segment.run(leaves, slots)
    alive = {k for k, value in enumerate(slots) if value is not None}
    assert alive == set(plan.outputs)


def test_dead_equations_are_gone(builder):
    def fn(_, x):
        jnp.sin(x) @ jnp.ones((8, 8), jnp.float32)
        return jnp.cos(x)

    plan, *_ = planned(builder, fn, {}, rand(2, 8))
    assert len(plan.segments) == 1
    assert plan.whole.params == ()


def test_an_input_that_nothing_reads_is_never_taken(builder):
    plan, leaves, inputs = planned(builder, lambda _, x: jnp.sin(x[0]), {}, (rand(2), rand(3)))
    assert plan.whole.reads == (0,)
    np.testing.assert_allclose(plan.run(leaves, inputs)[0], np.sin(inputs[0]), rtol=1e-6)


def test_a_program_with_side_effects_is_left_whole(builder, capfd):
    def fn(_, x):
        jax.debug.print("x = {}", x[0, 0])
        return jnp.tanh(jnp.sin(x) @ x.T) @ x

    plan, leaves, inputs = planned(builder, fn, {}, rand(4, 4))
    assert "side effects" in plan.not_cut
    assert plan.segments == (plan.whole,)
    plan.run(leaves, inputs)
    jax.effects_barrier()
    assert capfd.readouterr().out.startswith("x = ")


def test_ordered_effects_are_left_whole(builder, capfd):
    def fn(_, x):
        jax.debug.print("one", ordered=True)
        jax.debug.print("two", ordered=True)
        return x * jnp.float32(2)

    plan, leaves, inputs = planned(builder, fn, {}, rand(4, 4))
    assert "side effects" in plan.not_cut
    capfd.readouterr()
    plan.run(leaves, inputs)
    jax.effects_barrier()
    assert capfd.readouterr().out == "one\ntwo\n"


def test_a_short_model_is_cut_where_that_hides_a_copy(device, monkeypatch):
    params = [rand(256, 256, seed=k) / 16 for k in range(12)]

    def fn(params, x):
        for w in params:
            x = jnp.tanh(x @ w)
        return x

    def segments(copy_bytes_per_s):
        builder = Builder(device, EstimatedCosts(), 10**12, copy_bytes_per_s=copy_bytes_per_s)
        plan, leaves, inputs = planned(builder, fn, params, rand(1, 256))
        assert difference(plan, leaves, inputs) <= TOLERANCE
        return len(plan.segments), plan.not_cut

    monkeypatch.setattr(build, "SEGMENT_NS", 1_000)  # it takes some tens of them
    assert segments(float("inf")) == (1, "it is shorter than a quantum")
    assert segments(1e15) == (1, "it is shorter than a quantum")
    count, why = segments(1e6)
    assert count > 2
    assert not why


def test_what_hides_a_copy_grows_with_the_root_of_the_shorter(device):
    builder = Builder(device, EstimatedCosts(), 10**12, copy_bytes_per_s=1e9)
    megabyte = [np.zeros(10**6, np.uint8)]  # 1 ms
    hiding = [
        builder._hiding(ms * 10**6, megabyte * count) for ms, count in ((9, 4), (4, 9), (9, 9))
    ]
    assert hiding == pytest.approx([4.0, 4.0, 6.0])


def test_while_and_cond_are_pieces_like_any_other(builder):
    def fn(_, x):
        x = lax.while_loop(lambda c: c.sum() < 100, lambda c: c * 2 + 1, jnp.abs(x))
        x = lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x)
        return jnp.tanh(x @ x.T)

    plan, leaves, inputs = planned(builder, fn, {}, rand(4, 4))
    assert len(plan.segments) > 1
    assert difference(plan, leaves, inputs) <= TOLERANCE


@pytest.mark.parametrize("length", [2, 3, 9])
@pytest.mark.parametrize("reverse", [False, True])
def test_scans_are_cut_by_iterations(builder, length, reverse):
    def fn(w, x):
        def body(c, row):
            c = jnp.tanh(row @ w + c)
            return c, c * 2

        return lax.scan(body, x[0], x, reverse=reverse)

    plan, leaves, inputs = planned(builder, fn, rand(8, 8) / 3, rand(length, 4, 8))
    assert len(plan.segments) > 1
    assert difference(plan, leaves, inputs) <= TOLERANCE
    np.testing.assert_allclose(plan.run(leaves, inputs)[1], fn(leaves[0], inputs[0])[1], atol=1e-5)


def test_a_short_program_and_a_whole_one_say_why_they_are_not_cut(device, builder):
    slow = Builder(device, EstimatedCosts(), 10**12)
    plan, *_ = planned(slow, attention, WEIGHTS, INPUTS)
    assert plan.not_cut == "it is shorter than a quantum"
    plan, *_ = planned(builder, attention, WEIGHTS, INPUTS, segmented=False)
    assert plan.not_cut == "not asked for"
    assert plan.segments == (plan.whole,)
    assert plan.bit_identical
    assert plan.whole.duration_ns > 0


def test_the_whole_and_its_segments_are_timed_in_turns(layer, monkeypatch):
    plan, leaves, inputs = layer
    order = []

    def time_run(timed, *_):
        order.append("whole" if timed.segments == (plan.whole,) else "cut")
        # The machine has other work at first.
        own_ns = {"whole": 1_000, "cut": 300}[order[-1]] * (10 if len(order) <= 2 else 1)
        return [own_ns] * len(timed.segments)

    monkeypatch.setattr(build, "_time_run", time_run)
    timed = build._timed(plan, leaves, inputs)
    assert order == ["whole", "cut"] * 3
    assert timed.whole.duration_ns == 1_000
    assert [s.duration_ns for s in timed.segments] == [300] * len(plan.segments)


def test_a_plan_too_far_from_the_whole_is_not_used(layer):
    plan, leaves, inputs = layer
    assert build._checked(plan, leaves, inputs).segments == plan.segments
    segments = tuple(replace(s, executable=_off(s.executable)) for s in plan.segments)
    checked = build._checked(replace(plan, segments=segments), leaves, inputs)
    assert checked.segments == (plan.whole,)
    assert "differ from the whole by" in checked.not_cut
    assert checked.max_relative_error > TOLERANCE


def _off(executable):
    def call(*arrays):
        return [r * 1.01 if r.dtype == np.float32 else r for r in executable.call(*arrays)]

    return replace(executable, call=call)


def test_models_of_one_architecture_share_their_executables(builder, layer):
    plan, *_ = layer
    before = compilations()
    other, leaves, inputs = planned(
        builder, attention, {n: w * 2 for n, w in WEIGHTS.items()}, INPUTS
    )
    assert compilations() == before
    assert [s.executable for s in other.segments] == [s.executable for s in plan.segments]
    assert difference(other, leaves, inputs) <= TOLERANCE


def test_complex_results_are_compared_too(builder):
    def fn(_, x):
        return jnp.fft.fft(jnp.tanh(x @ x.T))

    plan, leaves, inputs = planned(builder, fn, {}, rand(8, 8))
    assert difference(plan, leaves, inputs) <= TOLERANCE


def test_a_plan_is_built_for_a_device_without_running_it(device):
    away = Builder(device, EstimatedCosts(), 3_000, profile=False)

    def host(x):
        raise AssertionError("it was run")

    def fn(_, x):
        x = jax.pure_callback(host, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
        return jnp.tanh(x @ x.T)

    plan, *_ = planned(away, fn, {}, rand(4, 4))
    assert len(plan.segments) > 1
    assert plan.whole.duration_ns == 0


# Any legal cut of any small network.

BATCH, SIDE, CHANNELS = 2, 6, 4


def conv(draw, x, k):
    groups = draw(st.sampled_from([1, 2, CHANNELS]))
    side = draw(st.integers(1, 3))
    w = rand(side, side, CHANNELS // groups, CHANNELS, seed=k) / (side * 2)
    dilation = draw(st.integers(1, 2))
    stride = draw(st.sampled_from([1, 1, 2]))
    padding = draw(st.sampled_from(["SAME", ((1, 1), (0, 2))]))

    def apply(x):
        return lax.conv_general_dilated(
            x,
            w,
            (stride, stride),
            padding,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    return apply if all(jax.eval_shape(apply, x).shape) else jnp.tanh


def dense(draw, x, k):
    w = rand(CHANNELS, CHANNELS, seed=k) / 2
    return lambda x: jnp.einsum("bhwc,cd->bhwd", x, w)


def mix(draw, x, k):
    def apply(x):
        rows = x.reshape(x.shape[0], -1, CHANNELS)
        weights = jax.nn.softmax(jnp.einsum("bic,bjc->bij", rows, rows))
        return jnp.einsum("bij,bjc->bic", weights, rows).reshape(x.shape)

    return apply


def elementwise(draw, x, k):
    return draw(
        st.sampled_from(
            [jnp.tanh, jax.nn.relu, jax.nn.sigmoid, jnp.square, lambda x: jnp.exp(-jnp.abs(x))]
        )
    )


def reduced(draw, x, k):
    axis = draw(st.integers(0, 3))
    reduce = draw(st.sampled_from([jnp.sum, jnp.max, jnp.mean]))
    return lambda x: x + reduce(x, axis=axis, keepdims=True) / 4


def pool(draw, x, k):
    window = (1, draw(st.integers(1, 2)), draw(st.integers(1, 2)), 1)
    return lambda x: lax.reduce_window(
        x, -np.float32(np.inf), lax.max, window, (1, 1, 1, 1), "SAME"
    )


def scan(draw, x, k):
    reverse = draw(st.booleans())
    w = rand(CHANNELS, CHANNELS, seed=k) / 3

    def apply(x):
        def body(c, row):
            c = jnp.tanh(jnp.einsum("bwc,cd->bwd", row, w) + c)
            return c, c

        rows = jnp.moveaxis(x, 1, 0)
        return jnp.moveaxis(lax.scan(body, rows[0], rows, reverse=reverse)[1], 0, 1)

    return apply


@st.composite
def networks(draw):
    """A function of one image, each layer maybe added to an earlier value of the same shape."""
    x = jax.ShapeDtypeStruct((BATCH, SIDE, SIDE, CHANNELS), np.float32)
    layers, shapes = [], [x]
    kinds = [conv, dense, mix, elementwise, reduced, pool, scan]
    for k in range(draw(st.integers(2, 5))):
        layer = draw(st.sampled_from(kinds))(draw, shapes[-1], k)
        shape = jax.eval_shape(layer, shapes[-1])
        same = [None] + [i for i, s in enumerate(shapes) if s.shape == shape.shape]
        layers.append((layer, draw(st.sampled_from(same))))
        shapes.append(shape)
    kept = draw(st.lists(st.integers(0, len(layers)), max_size=2, unique=True))

    def fn(_, x):
        values = [x]
        for layer, skip in layers:
            y = layer(values[-1])
            values.append(y if skip is None else y + values[skip])
        return [values[-1], *(values[k] for k in kept)]

    return fn


@settings(max_examples=18)
@given(fn=networks(), data=st.data())
def test_random_networks_at_random_legal_cuts(device, fn, data):
    traced = trace(fn, {}, rand(BATCH, SIDE, SIDE, CHANNELS))
    builder = Builder(device, EstimatedCosts(), 20_000, profile=False)
    program = build._Program.of(traced)
    if data.draw(st.booleans(), label="sliced"):
        program = builder._split(program)
    whole = program.segment(program.eqns, program.out_vars, (), device)
    inner = st.integers(1, max(1, len(program.eqns) - 1))
    cuts = sorted(data.draw(st.sets(inner, max_size=3), label="cuts") - {len(program.eqns)})
    here = places(program.eqns, program.in_vars, program.out_vars)
    plan = program.plan(whole, builder._compile(program, here, cuts), "")
    inputs = [rand(BATCH, SIDE, SIDE, CHANNELS, seed=9)]
    assert difference(plan, traced.hoisted, inputs) <= TOLERANCE
    first = bits(plan.run(traced.hoisted, inputs))
    assert bits(plan.run(traced.hoisted, inputs)) == first
