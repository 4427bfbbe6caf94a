"""Sliced equations compute what the whole one does, along every axis that may be sliced."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.extend import core as jex

from missile_jax.program import split
from missile_jax.program.split import splitter
from missile_jax.program.trace import bind_eqn


def rand(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def equation(fn, *args):
    """The last equation of `fn`."""
    eqn = jax.make_jaxpr(fn)(*args).eqns[-1]
    assert not any(isinstance(a, jex.Literal) for a in eqn.invars)
    return eqn


def close(got, want):
    scale = np.max(np.abs(np.asarray(want, np.float64)), initial=1e-30)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * scale)


def check_every_axis(eqn, operands):
    """Slices of every sliceable axis, down to single rows, join to the whole. Returns the axes."""
    shape = eqn.outvars[0].aval.shape
    sliceable = split._MAKERS.get(eqn.primitive.name, split._elementwise)(eqn)
    cases = [
        (axis, run, parts)
        for axis, run in sliceable
        for parts in {2, shape[axis]}
        if 2 <= parts <= shape[axis]
    ]

    @jax.jit
    def joined(*operands):
        return [
            lax.concatenate([run(operands, *b) for b in split._bounds(shape[axis], parts)], axis)
            for axis, run, parts in cases
        ]

    (want,) = bind_eqn(eqn, operands)
    for got in joined(*operands):
        assert got.shape == want.shape
        close(got, want)
    return [axis for axis, _ in sliceable]


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from(["one", "depthwise", "two"]))
    channels, out = {"one": (3, 4), "depthwise": (4, 4), "two": (4, 6)}[groups]
    count = {"one": 1, "depthwise": 4, "two": 2}[groups]
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(
        st.sampled_from(["SAME", "VALID"])
        | st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2)
    )
    layout = draw(st.sampled_from([("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NHWC")]))
    size = (2, *draw(st.tuples(st.integers(3, 7), st.integers(3, 5))))
    x = {"N": size[0], "H": size[1], "W": size[2], "C": channels}
    w = {"H": kernel[0], "W": kernel[1], "I": channels // count, "O": out}
    return (
        rand(*(x[d] for d in layout[0])),
        rand(*(w[d] for d in layout[1]), seed=1),
        {
            "window_strides": draw(st.tuples(st.integers(1, 3), st.integers(1, 2))),
            "padding": padding,
            "rhs_dilation": draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
            "dimension_numbers": layout,
            "feature_group_count": count,
        },
    )


@settings(max_examples=20)
@given(convolutions())
def test_convolutions(case):
    x, w, options = case
    eqn = equation(lambda a, b: lax.conv_general_dilated(a, b, **options), x, w)
    assume(all(eqn.outvars[0].aval.shape))
    axes = check_every_axis(eqn, [x, w])
    assert 0 in axes
    if options["feature_group_count"] != 2:
        assert 3 in axes


def test_a_convolution_over_positions():
    x, w = rand(2, 9, 3), rand(3, 3, 4, seed=1)
    dims = ("NWC", "WIO", "NWC")
    eqn = equation(
        lambda a, b: lax.conv_general_dilated(a, b, (2,), "SAME", dimension_numbers=dims), x, w
    )
    assert sorted(check_every_axis(eqn, [x, w])) == [0, 1, 2]


def test_rows_of_a_transposed_convolution_are_left_alone():
    x, w = rand(2, 4, 4, 3), rand(3, 3, 4, 3, seed=1)
    fn = lambda a, b: lax.conv_transpose(  # noqa: E731
        a, b, (2, 2), "SAME", dimension_numbers=("NHWC", "HWOI", "NHWC")
    )
    eqn = equation(fn, x, w)
    assert sorted(check_every_axis(eqn, [x, w])) == [0, 3]


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [
        ("ij,jk->ik", [(3, 4), (4, 5)]),
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
        ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("abi,ick->abck", [(2, 3, 4), (4, 5, 2)]),
    ],
)
def test_dots(spec, shapes):
    operands = [rand(*shape, seed=k) for k, shape in enumerate(shapes)]
    left, right = spec.split("->")[0].split(",")
    shared = [c for c in left if c in right]
    batch = [c for c in shared if c in spec.split("->")[1]]
    contract = [c for c in shared if c not in batch]
    dims = (
        ([left.index(c) for c in contract], [right.index(c) for c in contract]),
        ([left.index(c) for c in batch], [right.index(c) for c in batch]),
    )
    eqn = equation(lambda a, b: lax.dot_general(a, b, dims), *operands)
    assert len(check_every_axis(eqn, operands)) == len(eqn.outvars[0].aval.shape)


def test_a_dot_of_one_value_with_itself():
    x = rand(3, 3)
    assert check_every_axis(equation(lambda a: a @ a, x), [x, x]) == [0, 1]


@pytest.mark.parametrize(
    "fn",
    [
        jnp.tanh,
        jnp.square,
        lambda x: lax.integer_pow(x, 3),
        lambda x: x.astype(jnp.float16),
        lambda x: lax.clamp(np.float32(-0.5), x, np.float32(0.5)),
    ],
)
def test_elementwise(fn):
    x = rand(3, 4)
    eqn = jax.make_jaxpr(fn)(x).eqns[-1]
    operands = [a.val if isinstance(a, jex.Literal) else x for a in eqn.invars]
    assert check_every_axis(eqn, operands) == [0, 1]


def test_select_with_one_predicate_for_all():
    operands = [np.bool_(True), rand(3, 4), rand(3, 4, seed=1)]
    assert check_every_axis(equation(lax.select_n_p.bind, *operands), operands) == [0, 1]


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.sum(1),
        lambda x: x.max((0, 2)),
        lambda x: x.min(2),
        lambda x: lax.reduce_prod_p.bind(x, axes=(0,)),
    ],
)
def test_reductions(fn):
    x = rand(3, 4, 5)
    eqn = equation(fn, x)
    assert check_every_axis(eqn, [x]) == list(range(len(eqn.outvars[0].aval.shape)))


def test_a_full_reduction_is_left_alone():
    x = rand(3, 4)
    assert splitter(equation(lambda a: a.sum(), x), 2) is None


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_windows_slide_over_whole_rows(padding):
    x = rand(2, 7, 6, 3)
    eqn = equation(
        lambda a: lax.reduce_window_max_p.bind(
            a,
            window_dimensions=(1, 3, 2, 1),
            window_strides=(1, 2, 1, 1),
            padding=tuple(lax.padtype_to_pads(x.shape, (1, 3, 2, 1), (1, 2, 1, 1), padding)),
            base_dilation=(1,) * 4,
            window_dilation=(1,) * 4,
        ),
        x,
    )
    assert check_every_axis(eqn, [x]) == [0, 3]


@pytest.mark.smoke
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("parts", [2, 3, 6, 99])
def test_scans_in_chunks_and_opened(parts, reverse):
    table, carry, xs = rand(4), rand(4, seed=1), rand(6, 4, seed=2)

    def fn(table, carry, xs):
        def body(c, x):
            c = (jnp.tanh(c[0] * table + x), c[1] + 1)
            return c, (c[0] * 2, c[1])

        return lax.scan(body, (carry, jnp.int32(0)), xs, reverse=reverse)

    closed = jax.make_jaxpr(fn)(table, carry, xs)
    eqn = closed.eqns[-1]
    operands = [table, carry, np.int32(0), xs]
    want = bind_eqn(eqn, operands)
    sliced = splitter(eqn, parts)
    for got, expected in zip(sliced(operands), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    inside = [e.primitive.name for e in jax.make_jaxpr(sliced)(operands).eqns]
    assert ("scan" in inside) == (parts < 6)


@pytest.mark.parametrize("parts", [2, 5])
def test_scans_without_carry_or_results(parts):
    xs = rand(5, 2)
    cases = [
        lambda xs: lax.scan(lambda c, x: (c, x * 2), (), xs)[1],
        lambda xs: lax.scan(lambda c, x: (c + x, None), xs[0], xs)[0],
        lambda xs: lax.scan(lambda c, _: (c * 2, c), xs[0], length=5)[1],
    ]
    for fn in cases:
        closed = jax.make_jaxpr(fn)(xs)
        eqn = next(e for e in closed.eqns if e.primitive.name == "scan")
        operands = [rand(*v.aval.shape, seed=k) for k, v in enumerate(eqn.invars)]
        sliced = splitter(eqn, parts)(operands)
        for got, want in zip(sliced, bind_eqn(eqn, operands), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_first_axis_that_is_long_enough_is_taken():
    x = rand(2, 8, 4)
    sliced = splitter(jax.make_jaxpr(jnp.tanh)(x).eqns[0], 4)
    shapes = [e.outvars[0].aval.shape for e in jax.make_jaxpr(sliced)([x]).eqns]
    assert shapes.count((2, 2, 4)) == 8  # four slices, and their results
    sliced = splitter(jax.make_jaxpr(jnp.tanh)(x).eqns[0], 99)
    shapes = [e.outvars[0].aval.shape for e in jax.make_jaxpr(sliced)([x]).eqns]
    assert shapes.count((2, 1, 4)) == 16


@pytest.mark.parametrize("fn", [jnp.sort, lambda x: x.reshape(4, 3), lambda x: jnp.cumsum(x, 0)])
def test_what_can_not_be_sliced_is_left_alone(fn):
    eqn = jax.make_jaxpr(fn)(rand(3, 4)).eqns[-1]
    assert splitter(eqn, 2) is None


@given(extent=st.integers(1, 50), parts=st.integers(1, 60))
def test_bounds_cover_the_extent_evenly(extent, parts):
    bounds = split._bounds(extent, parts)
    sizes = [stop - start for start, stop in bounds]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == extent
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
