"""Links that are closed at the end of the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from links import MakeLink

from missile_jax import _native


@pytest.fixture
def make_link() -> Iterator[MakeLink]:
    """Makes links, which are closed at the end of the test."""
    links: list[_native.Link] = []

    def make(**options) -> _native.Link:
        links.append(_native.Link(**options))
        return links[-1]

    yield make
    for link in links:
        link.close()
