"""Small programs, built without measuring where a test does not ask for it."""

import jax
import pytest

from missile_jax.program.build import Builder
from missile_jax.program.costs import EstimatedCosts

# Every equation is estimated to take 2 us and more: about one to three of them make a segment.
QUANTUM_NS = 3_000


@pytest.fixture(scope="session")
def device():
    return jax.devices()[0]


@pytest.fixture(scope="session")
def builder(device):
    """Cuts by estimates, so that cuts are the same everywhere; runs and checks what it built."""
    return Builder(device, EstimatedCosts(), QUANTUM_NS)
