"""What a user says about a model: values only, checked when they are made.

Axis letters used in this package: B rows of a batch, L positions of a sequence.
"""

from __future__ import annotations

import enum
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from missile_jax.errors import ConfigError

PyTree = Any
# A jax.Device, which type checkers take for a variable.
JaxDevice = Any
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Priority(enum.Enum):
    """Class of a model: who goes first when both want the device."""

    LATENCY = "latency"
    BEST_EFFORT = "best_effort"

    @classmethod
    def of(cls, value: Priority | str) -> Priority:
        """The member named by `value`. Raises ConfigError for any other value."""
        try:
            return cls(value)
        except ValueError:
            allowed = ", ".join(repr(p.value) for p in cls)
            raise ConfigError(f"priority={value!r} is unknown; allowed: {allowed}") from None


@dataclass(frozen=True, slots=True)
class SLO:
    """A model's objective: the `percentile` of its latencies lies within `deadline_ms`.

    deadline_ms: milliseconds from arrival to result.
    percentile: in (0, 1), such as 0.99. (Torpor, arXiv:2306.03622, section on queueing.)
    """

    deadline_ms: float
    percentile: float = 0.99

    def __post_init__(self) -> None:
        if not (math.isfinite(self.deadline_ms) and self.deadline_ms > 0):
            raise ConfigError(f"SLO deadline_ms={self.deadline_ms!r} must be a positive number")
        if not 0 < self.percentile < 1:
            raise ConfigError(
                f"SLO percentile={self.percentile!r} must lie between 0 and 1, such as 0.99"
            )


@dataclass(frozen=True, slots=True)
class Tenant:
    """What one tenant gets of the memory and the link that all share.

    link_weight: share of the link to the device among the tenants of its class that copy.
    memory_quota: of device memory that parameters of its models may take at a time, in bytes or as
        ``"2GiB"``; None for as much as there is.
    queue_limit: requests to all its models that may wait together; one more raises QueueFullError.
        None for no limit but the models' own.
    """

    link_weight: float = 1.0
    memory_quota: int | str | None = None
    queue_limit: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.link_weight < math.inf:
            raise ConfigError(f"link_weight={self.link_weight!r} must be a positive number")
        if self.memory_quota is not None:
            size_bytes("memory_quota", self.memory_quota)
        if self.queue_limit is not None:
            _check_limit("", self.queue_limit)

    @property
    def quota_bytes(self) -> int | None:
        quota = self.memory_quota
        return None if quota is None else size_bytes("memory_quota", quota)

    @property
    def shares_memory(self) -> bool:
        """Whether it says anything of the link or of device memory."""
        return self.link_weight != 1.0 or self.memory_quota is not None


@dataclass(frozen=True, slots=True)
class Model:
    """One model to serve.

    name: letters, digits, ``.``, ``_``, ``-``; at most 128 characters.
    model: a Flax linen module, a Flax nnx module, or a function ``fn(params, inputs)``.
    params: linen variables, or the first argument of the function; None for an nnx module.
    example: pytree of arrays, each leaf [B, ...]. Gives tree, trailing shapes and dtypes; a linen
        or nnx module is called with a dict's items as keyword arguments, with a tuple's items as
        positional arguments, with anything else as its one argument.
    priority: ``"latency"`` or ``"best_effort"``.
    slo: what ``stats()`` measures attainment against; orders requests of latency models.
    buckets: batch sizes B compiled at load. A request of B rows runs in the smallest bucket that
        holds it, padded with zeros; more rows than the largest bucket is an error. Waiting requests
        of one model share a bucket where they fit.
    lengths: sequence lengths L compiled at load, for inputs [B, L, ...] whose axis 1 is as long as
        the example's. A shorter sequence is padded with zeros, so a model with an attention mask
        takes the mask as an input. None: the example's shape is the only one.
    tenant: who is charged.
    weight: share of device time among best-effort models.
    pinned: stay on the device once there; only where the runtime manages device memory.
    checkpoint: an Orbax checkpoint, a store's entry or a ``.safetensors`` file that holds `params`,
        or an nnx module's state; instead of params.
    queue_limit: requests that may wait; one more raises QueueFullError.
    timeout_ms: the deadline of a request that brings none, or a later one; None for no limit.
    """

    name: str
    model: Any
    params: PyTree = field(default=None, repr=False)
    example: PyTree = field(default=None, repr=False)
    priority: Priority | str = Priority.BEST_EFFORT
    slo: SLO | None = None
    buckets: Sequence[int] = (1,)
    lengths: Sequence[int] | None = None
    tenant: str = "default"
    weight: float = 1.0
    queue_limit: int = 4096
    pinned: bool = False
    checkpoint: str | os.PathLike[str] | None = None
    timeout_ms: float | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        where = f"model {self.name!r}: "
        object.__setattr__(self, "priority", Priority.of(self.priority))
        object.__setattr__(self, "buckets", _sizes(where + "buckets", self.buckets))
        if self.lengths is not None:
            object.__setattr__(self, "lengths", _sizes(where + "lengths", self.lengths))
        if self.example is None:
            raise ConfigError(where + "example= is missing; give one input with its batch axis")
        if self.checkpoint is not None and self.params is not None:
            raise ConfigError(where + "give params= or checkpoint=, not both")
        if self.slo is not None and not isinstance(self.slo, SLO):
            raise ConfigError(where + f"slo={self.slo!r} must be a missile_jax.SLO")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ConfigError(where + f"weight={self.weight!r} must be a positive number")
        _check_limit(where, self.queue_limit)
        if self.timeout_ms is not None and not 0 < self.timeout_ms < math.inf:
            raise ConfigError(where + f"timeout_ms={self.timeout_ms!r} must be a positive number")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that a server is configured for.

    build: makes it, under this name; called anew each time that it is loaded.
    on_request: load it when a client asks for that, not at startup.
    """

    name: str
    build: Callable[[], Model]
    on_request: bool = False

    @classmethod
    def of(cls, model: Model | ModelSource) -> ModelSource:
        """One that gives `model` itself each time."""
        return cls(model.name, lambda: model) if isinstance(model, Model) else model


def _check_limit(where: str, limit: int) -> None:
    if not isinstance(limit, int) or limit < 1:
        raise ConfigError(where + f"queue_limit={limit!r} must be 1 or more")


def check_name(name: str) -> str:
    """`name`, if a model may have it. Raises ConfigError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"model name {name!r} is not allowed; use 1 to 128 letters, digits, "
            "'.', '_' or '-', the first a letter or digit"
        )
    return name


_UNITS = {"": 1, "b": 1} | {
    prefix + end: base**power
    for power, prefix in enumerate(("k", "m", "g", "t"), start=1)
    for end, base in (("b", 1000), ("ib", 1024))
}


def size_bytes(what: str, value: int | str) -> int:
    """A size such as ``2**30``, ``"512 MiB"`` or ``"2GB"`` in bytes. Raises ConfigError."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None or found[2].lower() not in _UNITS or float(found[1]) <= 0:
        raise ConfigError(
            f"{what}={value!r} must be a positive number of bytes, or a text such as '512MiB' "
            "or '2GB'"
        )
    return round(float(found[1]) * _UNITS[found[2].lower()])


def _sizes(where: str, values: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(values) if isinstance(values, Iterable) else ()
    if not sizes or any(not isinstance(v, int) or isinstance(v, bool) or v < 1 for v in sizes):
        raise ConfigError(f"{where}={values!r} must be a list of whole numbers of 1 or more")
    return tuple(sorted(set(sizes)))


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named leaf of a model's inputs or outputs.

    name: path of the leaf in its tree (``"input_ids"``, ``"boxes.0"``); a tree that is one bare
        array is called ``"input"`` or ``"output"``.
    shape: None stands for an axis that follows the bucket: B, or L where `lengths` are declared.
    dtype: numpy name, such as ``"float32"`` or ``"bfloat16"``.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model takes and gives: for front ends and for `Runtime.describe`."""

    name: str
    priority: Priority
    tenant: str
    slo: SLO | None
    buckets: tuple[int, ...]
    lengths: tuple[int, ...] | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameter_bytes: int
    timeout_ms: float | None = None


ModelFn = Callable[[PyTree, PyTree], PyTree]
