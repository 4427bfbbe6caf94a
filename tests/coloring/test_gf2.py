"""GF(2) algebra against brute force."""

from hypothesis import given
from hypothesis import strategies as st

from missile_jax.coloring.gf2 import in_span, null_space, rank, reduced, span

VECTORS = st.lists(st.integers(0, 255), max_size=6)


@given(VECTORS)
def test_basis_spans_what_the_vectors_do(vectors: list[int]) -> None:
    basis = reduced(vectors)
    assert set(span(basis)) == set(span(vectors))
    assert len(set(span(basis))) == 1 << len(basis) == 1 << rank(vectors)
    assert {v for v in range(256) if in_span(v, basis)} == set(span(vectors))


@given(VECTORS)
def test_null_space_is_all_that_is_even_with_each_vector(vectors: list[int]) -> None:
    want = {m for m in range(256) if all((m & v).bit_count() % 2 == 0 for v in vectors)}
    assert set(span(null_space(vectors, 8))) == want
