"""Many Flax models on one accelerator: see `Runtime` and `serve`.

Names are loaded when they are first asked for: every JAX program of an environment imports
`missile_jax.plugin`, and pays for no more than that.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        PluginError,
        QueueFullError,
        RequestError,
        RuntimeClosedError,
        UnsupportedShapeError,
    )
    from missile_jax.memory.memory import CopyRecord
    from missile_jax.runtime import Runtime
    from missile_jax.schedule.policies import Concurrent, Fifo, Missile
    from missile_jax.serving import Serving, serve
    from missile_jax.spec import SLO, Model, ModelInfo, ModelSource, Priority, Tenant, TensorSpec

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
    "PluginError",
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


_HOMES = {
    "missile_jax._native": ["__version__"],
    "missile_jax.engine.multiplexer": ["LaunchRecord"],
    "missile_jax.memory.memory": ["CopyRecord"],
    "missile_jax.runtime": ["Runtime"],
    "missile_jax.schedule.policies": ["Concurrent", "Fifo", "Missile"],
    "missile_jax.serving": ["Serving", "serve"],
    "missile_jax.spec": [
        "SLO",
        "Model",
        "ModelInfo",
        "ModelSource",
        "Priority",
        "Tenant",
        "TensorSpec",
    ],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF.get(name, "missile_jax.errors")), name)
    globals()[name] = value
    return value
