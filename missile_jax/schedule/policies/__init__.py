"""The policies by name."""

from __future__ import annotations

from collections.abc import Callable

from missile_jax.errors import ConfigError
from missile_jax.schedule.policies.concurrent import Concurrent
from missile_jax.schedule.policies.fifo import Fifo
from missile_jax.schedule.policies.missile import Missile
from missile_jax.schedule.view import Policy

_POLICIES: dict[str, Callable[[], Policy]] = {
    "missile": Missile,
    "concurrent": Concurrent,
    "fifo": Fifo,
}


def policy_names() -> tuple[str, ...]:
    """Names that `Runtime(policy=)` takes."""
    return tuple(_POLICIES)


def make_policy(policy: str | Policy) -> Policy:
    """The policy called `policy` with its defaults, or `policy` itself if it is one.

    Raises ConfigError for an unknown name.
    """
    if not isinstance(policy, str):
        return policy
    if policy not in _POLICIES:
        raise ConfigError(f"policy={policy!r} is unknown; allowed: {', '.join(_POLICIES)}")
    return _POLICIES[policy]()


__all__ = ["Concurrent", "Fifo", "Missile", "make_policy", "policy_names"]
