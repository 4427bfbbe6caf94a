"""Where programs are cut: what is live at each place, and the cheapest cuts."""

import itertools
import math

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.extend import core as jex

from missile_jax.program import cut
from missile_jax.program.cut import Place, choose, places

X = jax.ShapeDtypeStruct((2, 4), jnp.float32)


def skip_and_mask(x, mask):
    y = jnp.sin(x)
    z = jnp.where(mask, jnp.cos(y), y)
    return z + x, y


def places_of(fn, *args):
    jaxpr = jax.make_jaxpr(fn)(*args)
    jaxpr = jex.ClosedJaxpr(jaxpr.jaxpr, jaxpr.consts)
    return jaxpr.jaxpr, places(jaxpr.eqns, jaxpr.jaxpr.invars, jaxpr.jaxpr.outvars)


def needed_behind(jaxpr, index):
    """What the equations from `index` on, and the results, take from before them."""
    made = {v for eqn in jaxpr.eqns[index:] for v in eqn.outvars}
    taken = {a for e in jaxpr.eqns[index:] for a in e.invars if not isinstance(a, jex.Literal)}
    return (taken | set(jaxpr.outvars)) - made


def test_a_place_carries_all_that_is_needed_behind_it():
    jaxpr, found = places_of(skip_and_mask, X, jax.ShapeDtypeStruct((2, 4), bool))
    assert [p.index for p in found] == list(range(len(jaxpr.eqns) + 1))
    for place in found:
        assert set(place.live) == needed_behind(jaxpr, place.index)
        size = sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in place.live)
        assert place.live_bytes == size


def test_an_unused_input_is_never_live():
    _, found = places_of(lambda x, unused: jnp.sin(x), X, X)
    assert [len(p.live) for p in found] == [1, 1]


def test_cuts_before_heavy_equations_are_clean():
    def fn(x, w):
        return jnp.tanh(jnp.sin(x) @ w)

    _, found = places_of(fn, X, jax.ShapeDtypeStruct((4, 4), jnp.float32))
    assert [p.clean for p in found] == [False, True, False, False]


costs = st.lists(st.integers(1, 200_000), min_size=1, max_size=8)


@pytest.mark.smoke
@given(costs=costs, quantum=st.integers(1, 300_000), data=st.data())
def test_the_cheapest_cuts_are_chosen(costs, quantum, data):
    sizes = data.draw(
        st.lists(st.integers(0, 10**6), min_size=len(costs) + 1, max_size=len(costs) + 1)
    )
    all_places = [Place(k, (), size, bool(size % 2)) for k, size in enumerate(sizes)]
    reach = 2 * quantum + max(costs)

    def price(cuts):
        total = 0.0
        for start, stop in itertools.pairwise([0, *cuts, len(costs)]):
            length = sum(costs[start:stop])
            if length > reach and stop - start > 1:
                return math.inf
            total += cut._PER_SEGMENT_NS + cut._OVERRUN * max(0, length - quantum)
            total += cut._price(all_places[stop]) if stop < len(costs) else 0.0
        return total

    chosen = choose(all_places, costs, quantum)
    assert chosen == sorted(set(chosen))
    inner = range(1, len(costs))
    every = itertools.chain.from_iterable(
        itertools.combinations(inner, n) for n in range(len(costs))
    )
    assert price(chosen) == pytest.approx(min(map(price, every)))


def test_a_program_within_the_quantum_is_not_cut():
    all_places = [Place(k, (), 0, True) for k in range(4)]
    assert choose(all_places, [10, 10, 10], 100) == []
    assert choose(all_places, [], 100) == []
