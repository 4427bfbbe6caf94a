"""Linear algebra over GF(2). A vector is an int: bit i is its component i."""

from __future__ import annotations

from collections.abc import Iterable


def reduced(vectors: Iterable[int]) -> list[int]:
    """The reduced echelon basis of their span, largest leading bit first."""
    basis: list[int] = []
    for vector in vectors:
        for row in basis:
            vector = min(vector, vector ^ row)
        if vector:
            basis = [min(row, row ^ vector) for row in basis]
            basis.append(vector)
            basis.sort(reverse=True)
    return basis


def rank(vectors: Iterable[int]) -> int:
    return len(reduced(vectors))


def in_span(vector: int, basis: list[int]) -> bool:
    """Whether `vector` is a sum of the rows of `basis`, which is reduced."""
    for row in basis:
        vector = min(vector, vector ^ row)
    return vector == 0


def span(basis: Iterable[int]) -> list[int]:
    """All sums of the rows of `basis`, 0 among them."""
    sums = [0]
    for row in basis:
        sums += [row ^ other for other in sums]
    return sums


def null_space(vectors: Iterable[int], width: int) -> list[int]:
    """A reduced basis of all masks of `width` bits that have even parity with each vector."""
    rows = reduced(vectors)
    leads = {row.bit_length() - 1: row for row in rows}
    found = []
    for free in range(width):
        if free in leads:
            continue
        mask = 1 << free
        for lead, row in leads.items():
            if row >> free & 1:
                mask |= 1 << lead
        found.append(mask)
    return reduced(found)
