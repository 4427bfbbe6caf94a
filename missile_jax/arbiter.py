"""The arbiter of a device, which processes that share it agree through: see docs/arbiter.md.

Imports no jax.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from missile_jax import _native
from missile_jax.errors import ArbiterError, ConfigError

# What a device is called where nobody names it.
DEFAULT_DEVICE = "cpu"


@dataclass(frozen=True, slots=True)
class TenantFigures:
    """One tenant of a device, as its arbiter and it tell.

    holds: it has the turn. in_flight, wanting: launches, and threads that wait for a turn.
    joined_ns, now_ns: when it came to this arbiter, and when this was told, on its clock. held_ns:
    time of its turns. launches, waits: so far, and those that had to wait. waited_ns: of these.
    busy_ns: with a launch in flight. longest_ns: of all launches. memory_limit_bytes: 0 for none.
    """

    pid: int
    name: str
    latency: bool
    weight: float
    holds: bool
    in_flight: int
    wanting: int
    joined_ns: int
    now_ns: int
    held_ns: int
    launches: int
    waits: int
    waited_ns: int
    busy_ns: int
    longest_ns: int
    memory_bytes: int
    memory_peak_bytes: int
    memory_limit_bytes: int


def program() -> Path:
    """The arbiter's program; the first tenant of a device starts it by itself."""
    return Path(_native.__file__).with_name("missile-arbiter")


def check_device(name: str) -> None:
    """Raises ConfigError for a name that no device has."""
    try:
        _native.check_device(name)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def tenants(device: str = DEFAULT_DEVICE) -> list[TenantFigures] | None:
    """The tenants of `device`; None if no arbiter runs, and so none has come.

    Raises ConfigError for a name that no device has, ArbiterError if the arbiter does not answer.
    """
    try:
        rows = _native.arbiter_tenants(device)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except (OSError, RuntimeError) as error:
        raise ArbiterError(str(error)) from error
    return None if rows is None else [TenantFigures(**row) for row in rows]


def join(
    device: str, name: str, *, latency: bool, weight: float = 1.0, yields: bool = False
) -> _native.Tenant:
    """This process as a tenant of `device`, whose arbiter is started if none runs.

    yields: its launches run on threads that yield, and need no turns.

    Raises ConfigError for what is not allowed or is refused, ArbiterError if there is no arbiter to
    be had.
    """
    try:
        return _native.Tenant(
            device=device, name=name, latency=latency, weight=weight, yields=yields
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except (OSError, RuntimeError) as error:
        raise ArbiterError(str(error)) from error
