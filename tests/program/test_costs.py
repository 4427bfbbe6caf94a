"""Costs: estimated or measured, kept on disk, and safe against other writers and broken files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from missile_jax.program.compile import compilations
from missile_jax.program.costs import EstimatedCosts, MeasuredCosts, estimate_ns

BIG = jax.ShapeDtypeStruct((64, 512), jnp.float32)


def eqns(fn, *args):
    return jax.make_jaxpr(fn)(*(args or (BIG,))).eqns


def matmul(columns=512):
    (eqn,) = eqns(lambda x, w: x @ w, BIG, jax.ShapeDtypeStruct((512, columns), jnp.float32))
    return eqn


def file_of(directory):
    (file,) = directory.glob("*.json")
    return file


@pytest.mark.smoke
def test_estimates_grow_with_work():
    assert estimate_ns(matmul(512)) > estimate_ns(matmul(8)) > 0
    (once,) = eqns(lambda x: lax.scan(lambda c, r: (c + jnp.sin(r), None), x[0] * 0, x)[0])[-1:]
    assert estimate_ns(once) > estimate_ns(eqns(jnp.sin, jax.ShapeDtypeStruct((1,), "float32"))[0])
    assert EstimatedCosts().cost_ns(matmul()) == estimate_ns(matmul())


def test_an_equation_is_measured_once_and_remembered_on_disk(device, tmp_path):
    costs = MeasuredCosts(device, tmp_path)
    cost = costs.cost_ns(matmul())
    costs.save()
    before = compilations()
    assert costs.cost_ns(matmul()) == MeasuredCosts(device, tmp_path).cost_ns(matmul()) == cost
    assert compilations() == before


def test_operands_that_are_constants_of_the_program_are_no_arguments(device, tmp_path):
    """The counter of a loop starts at a literal; the same value may be an operand twice."""
    (loop,) = eqns(lambda x: lax.fori_loop(0, 3, lambda _, y: y * 2 + x, x))[-1:]
    assert loop.primitive.name == "scan"
    assert MeasuredCosts(device, tmp_path).cost_ns(loop) > 0


def test_two_writers_merge(device, tmp_path):
    first, second = MeasuredCosts(device, tmp_path), MeasuredCosts(device, tmp_path)
    first.cost_ns(matmul(512))
    second.cost_ns(matmul(511))
    first.save()
    second.save()
    assert len(json.loads(file_of(tmp_path).read_text())) == 2
    assert list(tmp_path.iterdir()) == [file_of(tmp_path)]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": "b"}', '{"a": null}', "\x00\xff"])
def test_a_broken_file_is_measured_anew(device, tmp_path, text):
    costs = MeasuredCosts(device, tmp_path)
    costs.cost_ns(matmul())
    costs.save()
    file_of(tmp_path).write_text(text)
    again = MeasuredCosts(device, tmp_path)
    assert again.cost_ns(matmul()) > 0
    again.save()
    assert json.loads(file_of(tmp_path).read_text())


def test_a_place_that_can_not_be_written_is_a_warning(device, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    costs = MeasuredCosts(device, blocked / "costs")
    with pytest.warns(UserWarning, match="costs are not kept"):
        costs.save()


def test_loops_and_host_functions_are_never_run_on_made_up_operands(device, tmp_path):
    def host(x):
        raise AssertionError("it was run")

    def endless(x):
        return lax.while_loop(lambda v: (v > 0).all(), lambda v: v + jnp.float32(1), x)

    def inside(x):
        return lax.cond(x[0, 0] > 0, endless, lambda v: v, x)

    wide = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
    costs = MeasuredCosts(device, tmp_path)
    before = compilations()
    for fn in (endless, inside, lambda x: jax.pure_callback(host, wide, x)):
        eqn = eqns(fn, wide)[-1]
        assert costs.cost_ns(eqn) == estimate_ns(eqn) > 100_000
    assert compilations() == before


def test_keys_and_indices_can_be_made_up(device, tmp_path):
    costs = MeasuredCosts(device, tmp_path)
    table = jax.ShapeDtypeStruct((1000, 256), jnp.float32)
    ids = jax.ShapeDtypeStruct((4096,), jnp.int32)
    gather = eqns(lambda t, i: t[i], table, ids)[-1]
    bits = eqns(lambda k: jax.random.bits(k, (512, 512)), jax.eval_shape(jax.random.key, 0))[-1]
    assert costs.cost_ns(gather) > 0
    assert costs.cost_ns(bits) > 0
    assert np.isfinite(estimate_ns(bits))
