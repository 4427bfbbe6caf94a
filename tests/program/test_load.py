"""Loading: every declared shape is compiled, for each kind of model and each kind of tree."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from missile_jax import Model, ModelLoadError, Priority
from missile_jax.program.compile import compilations
from missile_jax.program.load import load

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Dense(8)(x))
        h = nn.LayerNorm()(h + nn.Dense(8)(h))
        return {"logits": nn.Dense(3)(h), "hidden": h}


def linen(name="net", seed=0, **fields):
    variables = Net().init(jax.random.key(seed), X)
    return Model(name, Net(), variables, example=X[:1], **fields)


def answer(program, inputs):
    """What a request gets, in the shape of the model's result."""
    accepted = program.accept(inputs)
    fit = accepted.fit
    stacked = program.stack([accepted.leaves], fit.rows)
    results = fit.plan.run(program.leaves, stacked)
    (leaves,) = program.unstack(results, [fit.rows], [fit.actual_length])
    return jax.tree.unflatten(program.out_tree, leaves)


@pytest.mark.smoke
def test_a_linen_module(builder):
    model = linen(buckets=[1, 2])
    program = load(model, builder)
    want = Net().apply(model.params, X)
    got = answer(program, X)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-5)
    assert len(program.plans[1, 0].segments) > 1


def test_an_nnx_module_with_all_kinds_of_state(builder):
    class Deep(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 8, rngs=rngs)
            self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
            self.drop = nnx.Dropout(0.5, deterministic=True, rngs=rngs)

        def __call__(self, x):
            return self.drop(jnp.tanh(self.norm(self.linear(x))))

    module = Deep(nnx.Rngs(0))
    program = load(Model("deep", module, example=X[:1], buckets=[2]), builder)
    np.testing.assert_allclose(answer(program, X), module(X), atol=1e-6)


def test_a_function_and_its_parameters(builder):
    model = Model("f", lambda w, x: x @ w, np.ones((4, 2), np.float32), example=X, buckets=[2])
    np.testing.assert_allclose(answer(load(model, builder), X), X @ model.params, atol=1e-6)


def test_the_callers_parameters_may_change_afterwards(builder):
    space = np.empty(1 << 10, np.uint8)
    start = -space.ctypes.data % 64  # XLA's CPU client takes what is aligned as it is.
    w = space[start : start + 32].view(np.float32).reshape(4, 2)
    w[:] = 1
    program = load(Model("f", lambda w, x: x @ w, w, example=X, buckets=[2]), builder)
    w[:] = 7
    np.testing.assert_allclose(answer(program, X), X @ np.ones((4, 2)), atol=1e-6)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Boxes:
    low: jax.Array
    high: jax.Array


def test_trees_of_any_kind_go_in_and_come_out(builder):
    def fn(_, inputs):
        pair, named = inputs["pair"], inputs["named"]["x"]
        box = Boxes(jnp.minimum(*pair), jnp.maximum(*pair))
        return {"box": box, "list": [named, (named * 2,)], "none": None}

    example = {"pair": (X[:1], -X[:1]), "named": {"x": X[:1]}}
    program = load(Model("trees", fn, {}, example=example, buckets=[1, 2]), builder)
    assert [leaf.name for leaf in program.inputs] == ["named.x", "pair.0", "pair.1"]
    names = [leaf.name for leaf in program.outputs]
    assert names == ["box.low", "box.high", "list.0", "list.1.0"]
    got = answer(program, {"pair": (X, -X), "named": {"x": X}})
    assert isinstance(got["box"], Boxes)
    np.testing.assert_array_equal(got["box"].high, np.abs(X))
    np.testing.assert_array_equal(got["list"][1][0], 2 * X)


def test_results_may_be_inputs_parameters_and_literals(builder):
    def fn(w, x):
        rows = jnp.zeros((x.shape[0], 1), jnp.float32)
        return x, x, rows + w, jnp.full((x.shape[0],), 3, jnp.int32)

    program = load(Model("odd", fn, np.ones((1, 1), np.float32), example=X[:1]), builder)
    got = answer(program, X[:1])
    assert [g.tolist() for g in got[2:]] == [[[1.0]], [3]]
    np.testing.assert_array_equal(got[0], X[:1])
    np.testing.assert_array_equal(got[1], X[:1])


def test_models_of_one_architecture_share_executables(builder):
    first = load(linen("a", seed=0), builder)
    before = compilations()
    second = load(linen("b", seed=1), builder)
    assert compilations() == before
    assert not np.allclose(answer(first, X[:1])["logits"], answer(second, X[:1])["logits"])


def test_every_bucket_and_length_is_compiled(builder):
    def fn(_, inputs):
        ids, mask = inputs["ids"], inputs["mask"]
        summed = jnp.where(mask, ids, 0).sum(1)
        return {"per_token": ids * 2, "per_row": summed.astype(jnp.float32)}

    ids = np.ones((1, 5), np.int32)
    model = Model(
        "tokens",
        fn,
        {},
        example={"ids": ids, "mask": ids > 0},
        buckets=[1, 4],
        lengths=[8, 16],
    )
    program = load(model, builder)
    assert sorted(program.plans) == [(1, 8), (1, 16), (4, 8), (4, 16)]
    shapes = {leaf.name: leaf.shape for leaf in program.info.inputs + program.info.outputs}
    assert shapes == {
        "ids": (None, None),
        "mask": (None, None),
        "per_token": (None, None),
        "per_row": (None,),
    }
    rng = np.random.default_rng(0)
    for rows, length in [(1, 1), (1, 8), (1, 9), (4, 16)]:
        ids = rng.integers(0, 99, (rows, length), dtype=np.int32)
        got = answer(program, {"ids": ids, "mask": ids > 50})
        np.testing.assert_array_equal(got["per_token"], ids * 2)
        np.testing.assert_array_equal(got["per_row"], np.where(ids > 50, ids, 0).sum(1))


def test_an_axis_that_only_depends_on_the_length_is_not_cut(builder):
    fn = lambda _, x: x.reshape(x.shape[0], -1, 2)  # noqa: E731
    model = Model("halves", fn, {}, example=np.ones((1, 4), np.float32), lengths=[4, 8])
    program = load(model, builder)
    assert answer(program, np.ones((1, 3), np.float32)).shape == (1, 2, 2)


def test_arrays_closed_over_at_some_shape_belong_to_that_shape(builder):
    shared = np.full((1, 1), 0.5, np.float32)

    def fn(_, x):
        length = x.shape[1]
        here = np.arange(length, dtype=np.float32)[None]
        scale = np.full((1, 1), length, np.float32)  # one shape, other values
        return x * scale + here + jnp.asarray(shared)

    model = Model("positions", fn, {}, example=np.ones((1, 3), np.float32), lengths=[2, 4])
    program = load(model, builder)
    for length in (2, 4):
        x = np.full((1, length), 3, np.float32)
        np.testing.assert_array_equal(answer(program, x), x * length + np.arange(length) + 0.5)
    assert program.info.parameter_bytes == 4 * (2 + 4 + 1 + 1 + 1)


def test_outputs_without_a_batch_axis_are_known(builder):
    assert not load(Model("total", lambda _, x: x.sum(), {}, example=X), builder).batched
    assert load(linen(), builder).batched


def test_latency_models_are_not_cut(builder):
    program = load(linen(priority="latency"), builder)
    assert program.info.priority is Priority.LATENCY
    assert {p.not_cut for p in program.plans.values()} == {"not asked for"}


def test_the_example_is_used_whatever_its_rows(builder):
    program = load(Model("net", lambda _, x: x * 2, {}, example=X, buckets=[1, 3]), builder)
    assert sorted(program.plans) == [(1, 0), (3, 0)]


def test_float64_examples_are_what_jax_makes_of_them(builder):
    model = Model("f", lambda _, x: x * 2, {}, example=X.astype(np.float64))
    assert load(model, builder).info.inputs[0].dtype == "float32"


def test_loops_and_branches_load(builder):
    def fn(_, x):
        x = lax.while_loop(lambda c: (c < 10).any(), lambda c: c * 2 + 1, jnp.abs(x))
        return lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x)

    program = load(Model("loop", fn, {}, example=X, buckets=[2]), builder)
    np.testing.assert_allclose(answer(program, X), fn((), X), atol=1e-6)


def broken(_, x):
    raise KeyError("layer 7")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": broken}, "could not be loaded: KeyError: 'layer 7'"),
        ({"model": lambda _, x: x @ x}, "could not be loaded: TypeError"),
        ({"model": lambda _, x: {}}, "returns no array"),
        ({"example": {}}, "the example holds no array"),
        ({"example": np.float32(1)}, r"shape \(\); every input needs a first axis B"),
        ({"example": (X, X[:1])}, "the same for all"),
        ({"example": np.ones(2, np.float32), "lengths": [4]}, "no input has an axis 1"),
        ({"params": {"w": 3}}, "params hold a int"),
    ],
)
def test_what_can_not_be_loaded_says_why(builder, fields, message):
    fields = {"model": lambda _, x: x, "params": {}, "example": X, **fields}
    with pytest.raises(ModelLoadError, match=message):
        load(Model("bad", **fields), builder)
