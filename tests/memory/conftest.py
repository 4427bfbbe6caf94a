"""Links that are closed at the end of the test, and drivers that tell what was left behind."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import fake_driver
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


@pytest.fixture(scope="session")
def fake_cuda_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fake_cuda") / "libcuda.so.1"
    fake_driver.build(path)
    return path


@pytest.fixture
def driver(fake_cuda_library: Path, tmp_path: Path) -> Iterator[fake_driver.FakeDriver]:
    """A fake CUDA driver of the test's own. Fails a test that misused it or left anything."""
    one = fake_driver.FakeDriver(Path(shutil.copy(fake_cuda_library, tmp_path)))
    yield one
    gc.collect()
    assert one.misuse() == ""
    assert one.leaks() == ""
