"""The two models that `serving` has every server serve: needs JAX and numpy alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from benchmarks import convnet, mlp

MODELS = ("mlp", "convnet")


@dataclass(frozen=True, slots=True)
class Served:
    """A function of parameters and x [1, ...] float32 that gives logits [1, 10]."""

    name: str
    function: Callable[[Any, Any], jax.Array]
    parameters: Any
    shape: tuple[int, ...]

    def example(self, seed: int = 0) -> np.ndarray:
        """float32 `shape`, of normal numbers."""
        return np.random.default_rng(seed).normal(size=self.shape).astype(np.float32)

    def compiled(self) -> Callable[[np.ndarray], np.ndarray]:
        """x -> logits, both numpy, with the parameters on the device; it has run once."""
        on_device, call = jax.device_put(self.parameters), jax.jit(self.function)

        def run(x: np.ndarray) -> np.ndarray:
            return np.asarray(call(on_device, x))

        run(self.example())
        return run


def served(name: str) -> Served:
    """One of `MODELS`."""
    if name == "mlp":
        return Served(name, mlp.mlp, mlp.parameters(), (1, mlp.SIZES[0]))
    return Served(name, convnet.convnet, convnet.parameters(), (1, 32, 32, 3))
