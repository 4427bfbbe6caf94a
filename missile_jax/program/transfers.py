"""How a request's inputs come to the device, and its results to the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from missile_jax._native import stack_rows


class Transfers(Protocol):
    """Of one model. Safe on any thread; what they copy is there when they return."""

    def stage(self, array: np.ndarray) -> np.ndarray:
        """A copy of a request's C-contiguous input [B, ...], so that the caller may write it."""
        ...

    def to_device(self, inputs: Sequence[np.ndarray]) -> tuple[Sequence[Any], dict[int, Any]]:
        """What launches take for `inputs`; and by index what has to be held until the last launch
        that reads the input is seen to have ended."""
        ...

    def to_host(self, results: Sequence[Any]) -> list[np.ndarray]:
        """The results of launches that are seen to have ended, read-only."""
        ...


class XlaTransfers:
    """XLA's own: an input goes with the launch that reads it. A CPU takes it as it was staged."""

    def stage(self, array: np.ndarray) -> np.ndarray:
        return stack_rows([array], len(array))

    def to_device(self, inputs: Sequence[np.ndarray]) -> tuple[Sequence[Any], dict[int, Any]]:
        return inputs, {}

    def to_host(self, results: Sequence[Any]) -> list[np.ndarray]:
        return [np.asarray(result) for result in results]


BY_XLA = XlaTransfers()
