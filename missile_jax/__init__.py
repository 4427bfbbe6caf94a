"""Many Flax models on one accelerator: see `Runtime` and `serve`."""

from typing import TYPE_CHECKING, Any

from missile_jax._native import __version__
from missile_jax.engine.multiplexer import LaunchRecord
from missile_jax.errors import (
    CheckpointError,
    ConfigError,
    DeadlineExceededError,
    DeviceMemoryError,
    HostMemoryError,
    InvalidInputError,
    MissileError,
    ModelError,
    ModelExistsError,
    ModelLoadError,
    ModelNotFoundError,
    ModelRaisedError,
    ModelUnavailableError,
    OverloadedError,
    QueueFullError,
    RequestError,
    RuntimeClosedError,
    UnsupportedShapeError,
)
from missile_jax.memory.memory import CopyRecord
from missile_jax.runtime import Runtime
from missile_jax.schedule.policies import Concurrent, Fifo, Missile
from missile_jax.spec import SLO, Model, ModelInfo, ModelSource, Priority, Tenant, TensorSpec

if TYPE_CHECKING:
    from missile_jax.serving import Serving, serve

__all__ = [
    "SLO",
    "CheckpointError",
    "Concurrent",
    "ConfigError",
    "CopyRecord",
    "DeadlineExceededError",
    "DeviceMemoryError",
    "Fifo",
    "HostMemoryError",
    "InvalidInputError",
    "LaunchRecord",
    "Missile",
    "MissileError",
    "Model",
    "ModelError",
    "ModelExistsError",
    "ModelInfo",
    "ModelLoadError",
    "ModelNotFoundError",
    "ModelRaisedError",
    "ModelSource",
    "ModelUnavailableError",
    "OverloadedError",
    "Priority",
    "QueueFullError",
    "RequestError",
    "Runtime",
    "RuntimeClosedError",
    "Serving",
    "Tenant",
    "TensorSpec",
    "UnsupportedShapeError",
    "__version__",
    "serve",
]


def __getattr__(name: str) -> Any:
    # A Runtime needs none of the server's packages, so they are loaded for the server alone.
    if name not in ("Serving", "serve"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from missile_jax import serving

    return getattr(serving, name)
