"""A process beside the tests that compiles for an H100.

JAX starts every plugin that it finds, and the CUDA one complains at length where there is no GPU.
So its files lie in a folder of their own, which this process alone has on its path.
"""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from h100_worker import use_plugin


@pytest.fixture(scope="session")
def on_h100() -> Iterator[Callable[..., Any]]:
    """``on_h100(fn, *args)`` calls a function of h100_worker there and returns its result."""
    folder = Path(sys.prefix) / "h100"
    if not (folder / "jax_plugins" / "xla_cuda12").is_dir():
        pytest.fail(f"the CUDA plugin is missing in {folder}: `make test` installs it there")
    with ProcessPoolExecutor(1, get_context("spawn"), use_plugin, (str(folder),)) as pool:
        yield lambda fn, *args: pool.submit(fn, *args).result()
