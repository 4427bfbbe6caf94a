"""Processes on plugins, each started once."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from plugins import LIBRARIES, Process, environment, start


@pytest.fixture(scope="session", autouse=True)
def _plugins() -> None:
    missing = [str(path) for path in LIBRARIES.values() if not path.exists()]
    if missing:
        pytest.fail(f"plugins are missing: {missing}; `make test` installs them there")


@pytest.fixture(scope="session")
def process() -> Iterator[Callable[..., Process]]:
    """``process(minor, wrapped, **options)`` is one whose JAX is on that plugin."""
    started: dict[tuple[Any, ...], Process] = {}
    with ExitStack() as stack:

        def find(minor: int, wrapped: bool, **options: Any) -> Process:
            key = (minor, wrapped, *sorted(options.items()))
            if key not in started:
                pool = start(environment(minor, wrapped, statistics=1, **options))
                started[key] = Process(stack.enter_context(pool))
            return started[key]

        yield find
