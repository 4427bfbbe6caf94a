"""What can be configured: one strict model. A key it does not know is an error."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from missile_jax.errors import ConfigError
from missile_jax.options import (
    Options,
    Positive,
    ServerOptions,
)
from missile_jax.schedule.policies import Missile, make_policy, policy_names
from missile_jax.schedule.view import Policy
from missile_jax.spec import SLO, Model, ModelSource, Tenant, size_bytes

Sizes = Annotated[list[Annotated[int, Field(ge=1, le=2**20)]], Field(min_length=1)]


def _size(value: int | str) -> int | str:
    try:
        size_bytes("", value)
    except ConfigError:
        raise ValueError("must be a positive number of bytes, or a text such as '2GiB'") from None
    return value


Size = Annotated[int | str, AfterValidator(_size)]


def _known_policy(name: str) -> str:
    return _one_of(name, policy_names())


def _known_zoo_model(name: str) -> str:
    return _one_of(name, zoo().names())


def zoo() -> ModuleType:
    """The module of the zoo. Raises ConfigError where its packages are not installed."""
    try:
        return importlib.import_module("missile_jax.models")
    except ImportError as error:
        raise ConfigError(f"the zoo needs missile-jax[zoo]: {error}") from None


def _model_name(name: str) -> str:
    return Model(name, model=None, example=()).name


def _factory(reference: str) -> str:
    _import(reference)
    return reference


class SLOConfig(Options):
    """See `missile_jax.SLO`."""

    deadline_ms: Positive
    percentile: Annotated[float, Field(gt=0, lt=1)] = 0.99


class ModelConfig(Options):
    """One model: where it comes from, and options of `missile_jax.Model`.

    zoo: name of a model of `missile_jax.models`.
    factory: ``"package.module:function"``; the function takes nothing and gives a
        `missile_jax.Model`, or anything with `module`, `variables` and `example` as the zoo does.

    load: when it is loaded first: ``"startup"``, or ``"on_request"`` of a client.

    An option that is left out is the model's own.
    """

    zoo: Annotated[str, AfterValidator(_known_zoo_model)] | None = None
    factory: Annotated[str, AfterValidator(_factory)] | None = Field(None, validate_default=True)
    priority: Literal["latency", "best_effort"] | None = None
    slo: SLOConfig | None = None
    buckets: Sizes | None = None
    lengths: Sizes | None = None
    tenant: Annotated[str, Field(min_length=1)] | None = None
    weight: Positive | None = None
    queue_limit: Annotated[int, Field(ge=1)] | None = None
    pinned: bool | None = None
    timeout_ms: Positive | None = None
    load: Literal["startup", "on_request"] = "startup"

    @field_validator("factory")
    @classmethod
    def _one_source(cls, factory: str | None, info: ValidationInfo) -> str | None:
        if "zoo" in info.data and (factory is None) == (info.data["zoo"] is None):
            raise ValueError("give exactly one of zoo and factory")
        return factory

    def build(self, name: str) -> Model:
        """The model, under `name`. Fetches weights of a zoo model; runs the factory otherwise.

        Raises ConfigError if the factory gives anything but a model.
        """
        options = self.model_dump(exclude_none=True, exclude={"zoo", "factory", "load"})
        if self.slo is not None:
            options["slo"] = SLO(self.slo.deadline_ms, self.slo.percentile)
        if self.zoo is not None:
            made = zoo().load(self.zoo)
        else:
            made = _import(str(self.factory))()
        if isinstance(made, Model):
            return dataclasses.replace(made, name=name, **options)
        if not all(hasattr(made, part) for part in ("module", "variables", "example")):
            raise ConfigError(
                f"models.{name}.factory={self.factory!r} gave a {type(made).__name__}; it must "
                "give a missile_jax.Model, or an object with module, variables and example"
            )
        return Model(name, made.module, made.variables, example=made.example, **options)


class TenantConfig(Options):
    """See `missile_jax.Tenant`."""

    link_weight: Positive = 1.0
    memory_quota: Size | None = None
    queue_limit: Annotated[int, Field(ge=1)] | None = None

    def build(self) -> Tenant:
        return Tenant(self.link_weight, self.memory_quota, self.queue_limit)


class Config(ServerOptions):
    """Everything ``missile serve`` can be told.

    be_floor: share of device time, 0 to 1, that best-effort models get even when latency-sensitive
        ones ask for all of it.
    device_memory, host_memory: bytes, or a text such as ``"2GiB"``; see `missile_jax.Runtime`.
    disk: a folder; see there too.
    tenants: what they get of the link, of device memory and of queues, by name.
    timeout_ms: for models that have none of their own; see `missile_jax.Model`.
    """

    policy: Annotated[str, AfterValidator(_known_policy)] = "missile"
    be_floor: Annotated[float, Field(ge=0, lt=1)] = 0.0
    device_memory: Size | None = None
    host_memory: Size | None = None
    disk: Annotated[str, Field(min_length=1)] | None = None
    tenants: dict[Annotated[str, Field(min_length=1)], TenantConfig] | None = None
    timeout_ms: Positive | None = None
    models: Annotated[
        dict[Annotated[str, AfterValidator(_model_name)], ModelConfig], Field(min_length=1)
    ]

    @field_validator("host_memory", "tenants")
    @classmethod
    def _memory_is_managed(cls, value: Any, info: ValidationInfo) -> Any:
        needed = value is not None
        if isinstance(value, dict):
            needed = any(tenant.build().shares_memory for tenant in value.values())
        if needed and info.data.get("device_memory") is None:
            raise ValueError("needs device_memory, else parameters stay on the device")
        return value

    @field_validator("disk")
    @classmethod
    def _disk_holds_what_the_host_does_not(
        cls, disk: str | None, info: ValidationInfo
    ) -> str | None:
        if disk is not None and info.data.get("host_memory") is None:
            raise ValueError("needs host_memory, else nothing goes to disk")
        return disk

    @field_validator("be_floor")
    @classmethod
    def _floor_is_kept(cls, floor: float, info: ValidationInfo) -> float:
        if floor and info.data.get("policy", "missile") != "missile":
            raise ValueError(f"policy {info.data['policy']!r} keeps no floor; only 'missile' does")
        return floor

    def build_policy(self) -> Policy:
        """The policy with its options, for `Runtime`."""
        if self.policy == "missile":
            return Missile(best_effort_floor=self.be_floor)
        return make_policy(self.policy)

    def build_tenants(self) -> dict[str, Tenant] | None:
        """For `Runtime`."""
        if self.tenants is None:
            return None
        return {name: tenant.build() for name, tenant in self.tenants.items()}

    def build_sources(self) -> list[ModelSource]:
        """For `serve`."""
        return [
            ModelSource(name, functools.partial(self._build, name), section.load == "on_request")
            for name, section in self.models.items()
        ]

    def _build(self, name: str) -> Model:
        model = self.models[name].build(name)
        return model if model.timeout_ms else dataclasses.replace(model, timeout_ms=self.timeout_ms)

    def to_yaml(self) -> str:
        """The configuration as a file that loads to an equal one."""
        return yaml.safe_dump(self.model_dump(exclude_none=True), sort_keys=False)


def _one_of(name: str, allowed: Iterable[str]) -> str:
    if name not in allowed:
        raise ValueError(hint(name, allowed))
    return name


def hint(name: str, allowed: Iterable[str]) -> str:
    """What may stand in place of `name`, the closest first."""
    close = difflib.get_close_matches(name, allowed, 1)
    return f"{f'did you mean {close[0]!r}? ' if close else ''}allowed: {', '.join(allowed)}"


def _import(reference: str) -> Any:
    module, colon, attribute = reference.partition(":")
    if not (colon and module and attribute):
        raise ValueError("must be 'package.module:function'")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot be imported: {error}") from None
    if not callable(found):
        raise ValueError(f"must name a function, {attribute!r} is a {type(found).__name__}")
    return found
