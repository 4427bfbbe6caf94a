"""A CUDA device for the tests that need one."""

from typing import Any

import jax
import pytest


@pytest.fixture(scope="session")
def gpu(request: pytest.FixtureRequest) -> Any:
    """The first CUDA device. Without one its tests are skipped, or fail where `-m gpu` asked."""
    try:
        return jax.devices("cuda")[0]
    except RuntimeError as error:
        if request.config.option.markexpr == "gpu":
            pytest.fail(f"no CUDA device: {error}")
        pytest.skip("no CUDA device; benchmarks/gpu/run.sh runs these where there is one")
