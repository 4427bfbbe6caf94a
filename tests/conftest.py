"""For all tests: strict promotion, a cache of their own, repeatable examples, a gate for models."""

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Examples compile programs, so they have no deadline; they are the same in every run.
settings.register_profile(
    "missile",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("missile")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ.setdefault("MISSILE_CACHE", str(tmp_path_factory.mktemp("cache")))


class Barrier:
    """A place in a model where its run can be held up: `point(x)` is x, some time later.

    entered: released each time a run is held up there. seen: runs that came by, held up or not.
    raises: what the next runs raise there, if anything.
    """

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.seen = 0
        self.raises: BaseException | None = None
        self._open = threading.Event()
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def wait_entered(self) -> None:
        """Returns once a run is held up."""
        assert self.entered.acquire(timeout=60), "no run reached the barrier"

    def point(self, x: jax.Array) -> jax.Array:
        def on_host(value: Any) -> np.ndarray:
            self.seen += 1
            if self.raises is not None:
                raise self.raises
            if not self._open.is_set():
                self.entered.release()
                assert self._open.wait(60), "the barrier was not opened"
            return np.asarray(value)

        return jax.pure_callback(on_host, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


@pytest.fixture
def barrier() -> Iterator[Callable[[], Barrier]]:
    """Makes barriers, which open at the end of the test."""
    made: list[Barrier] = []

    def make() -> Barrier:
        made.append(Barrier())
        return made[-1]

    yield make
    for one in made:
        one.raises = None
        one.open()
