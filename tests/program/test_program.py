"""The way in and out of a program: checks, padding, batches."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from missile_jax import InvalidInputError, Model, UnsupportedShapeError
from missile_jax.program.load import load
from missile_jax.program.program import Leaf


@pytest.fixture(scope="module")
def program(builder):
    def fn(_, inputs):
        return {"double": inputs["x"] * 2, "ids": inputs["ids"]}

    example = {"ids": np.ones((1, 4), np.int32), "x": np.ones((1, 2), np.float32)}
    return load(Model("m", fn, {}, example=example, buckets=[2, 4], lengths=[4, 8]), builder)


def inputs(rows=1, length=4, **changed):
    made = {"ids": np.ones((rows, length), np.int32), "x": np.ones((rows, 2), np.float32)}
    return made | changed


@pytest.mark.smoke
def test_inputs_are_copied_and_padded_to_the_length_bucket(program):
    given = inputs(3, 5)
    accepted = program.accept(given)
    given["ids"][:] = 7
    ids, x = accepted.leaves
    fit = accepted.fit
    assert (fit.rows, fit.actual_length, fit.length) == (3, 5, 8)
    assert fit is program.fit(3, 5)
    assert ids.tolist() == [[1] * 5 + [0] * 3] * 3
    assert x.shape == (3, 2)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (inputs()["x"], InvalidInputError, "inputs have the tree"),
        ({"ids": inputs()["ids"]}, InvalidInputError, "the example has"),
        (inputs(x=np.ones((1, 3), np.float32)), InvalidInputError, r"'x' has shape \(1, 3\)"),
        (inputs(x=np.ones(2, np.float32)), InvalidInputError, r"allowed is \[B, 2\]"),
        (inputs(x=np.ones((2, 2), np.float32)), InvalidInputError, "same B and L"),
        (inputs(x=np.ones((1, 2), np.int32)), InvalidInputError, "dtype int32, allowed is float32"),
        (inputs(x="text"), InvalidInputError, "dtype <U4"),
        (inputs(ids=np.ones((1, 4), bool)), InvalidInputError, "dtype bool"),
        (inputs(5), UnsupportedShapeError, r"5 rows do not fit the declared batch sizes \[2, 4\]"),
        (inputs(0), UnsupportedShapeError, "0 rows"),
        (inputs(1, 9), UnsupportedShapeError, r"9 positions .* lengths \[4, 8\]"),
        (inputs(1, 0), UnsupportedShapeError, "0 positions"),
    ],
)
def test_other_inputs_are_refused_with_what_is_allowed(program, given, error, message):
    with pytest.raises(error, match=message):
        program.accept(given)


def test_python_numbers_and_wide_dtypes_are_taken_as_jax_takes_them(program):
    wide = inputs(x=np.ones((1, 2), np.float64), ids=np.ones((1, 4), np.int64))
    assert [leaf.dtype for leaf in program.accept(wide).leaves] == [np.int32, np.float32]


def test_arrays_in_any_memory_order_are_taken(program):
    x = np.asfortranarray(np.arange(8, dtype=np.float32).reshape(4, 2))
    assert program.accept(inputs(4, x=x)).leaves[1].tolist() == x.tolist()
    x = jnp.arange(8, dtype=jnp.float32).reshape(4, 2)
    assert program.accept(inputs(4, x=x)).leaves[1].tolist() == x.tolist()


def test_a_donated_array_is_an_invalid_input(program):
    gone = jnp.ones((1, 2), jnp.float32)
    gone.delete()
    with pytest.raises(InvalidInputError, match="'x' is no array"):
        program.accept(inputs(x=gone))


@given(rows=st.lists(st.integers(1, 4), min_size=1, max_size=4).filter(lambda r: sum(r) <= 4))
def test_requests_of_a_batch_get_their_own_rows(program, rows):
    rng = np.random.default_rng(0)
    asked = [inputs(n, 4, x=rng.standard_normal((n, 2)).astype(np.float32)) for n in rows]
    parts = [program.accept(a).leaves for a in asked]
    stacked = program.stack(parts, sum(rows))
    assert {len(leaf) for leaf in stacked} == {2 if sum(rows) <= 2 else 4}
    assert not stacked[1][sum(rows) :].any()
    results = program.plan_for(sum(rows), 4).run(program.leaves, stacked)
    answers = program.unstack(results, rows, [4] * len(rows))
    for (double, _), one in zip(answers, asked, strict=True):
        np.testing.assert_array_equal(double, 2 * one["x"])


def test_results_are_cut_to_the_length_asked(program):
    accepted = program.accept(inputs(1, 3))
    stacked = program.stack([accepted.leaves], 1)
    results = program.plan_for(1, 4).run(program.leaves, stacked)
    ((_, ids),) = program.unstack(results, [1], [3])
    assert ids.tolist() == [[1, 1, 1]]


def test_a_request_that_fills_its_bucket_is_not_copied_again(program):
    accepted = program.accept(inputs(2))
    assert program.stack([accepted.leaves], 2)[0] is accepted.leaves[0]


def test_a_model_without_a_batch_axis_wants_full_buckets(builder):
    x = np.ones((2, 3), np.float32)
    total = load(Model("total", lambda _, x: x.sum(), {}, example=x, buckets=[2]), builder)
    assert total.max_rows == 0
    (results,) = total.unstack(total.plan_for(2, 0).run((), [x]), [2], [0])
    assert results[0] == 6
    with pytest.raises(UnsupportedShapeError, match=r"\[2\] exactly"):
        total.accept(x[:1])


def test_a_leaf_at_other_sizes():
    assert Leaf("x", (1, 4, 4, 3), np.dtype("float32"), (1, 2)).sized(5, 7) == (5, 7, 7, 3)
    assert Leaf("x", (1, 4), np.dtype("float32"), ()).sized(5, 7) == (5, 4)
