"""Who may do what: bearer tokens, without a transport.

A token holds 256 random bits, so a configuration may hold its plain SHA-256. A slow hash protects
what people make up and others can guess; such a token can only be found by trying all of them.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from missile_jax.errors import ForbiddenError, UnauthenticatedError
from missile_jax.options import TokenOptions
from missile_jax.spec import Priority

# So that leaked ones are found by those who search for them.
_PREFIX = "missile_"
_RANDOM_BYTES = 32
# Nothing shorter holds 128 random bits. A configured hash of such a token is good for nothing.
MIN_TOKEN_CHARS = 32
ALL_MODELS = "*"


class Call(enum.Enum):
    """Kinds of calls that a token allows or does not."""

    INFER = "infer"
    METADATA = "metadata"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sends a request.

    tenant: "" for no one's. calls, priorities: what it may do, and in which class.
    models: names that it may infer and see, or `ALL_MODELS`; None for those of its tenant.
    """

    tenant: str
    calls: frozenset[Call]
    models: frozenset[str] | None
    priorities: frozenset[Priority]

    @classmethod
    def of(cls, token: TokenOptions) -> Self:
        """The one who has this token."""
        return cls(
            token.tenant,
            frozenset(map(Call, token.calls)),
            None if token.models is None else frozenset(token.models),
            frozenset(map(Priority, token.priorities)),
        )

    def check(self, call: Call) -> None:
        """Raises ForbiddenError unless it may do this kind of call."""
        if call not in self.calls:
            raise ForbiddenError(
                f"the token of tenant {self.tenant!r} does not allow {call.value} calls; "
                f"it allows {_listed(self.calls)}"
            )

    def check_priority(self, own: Priority, asked: str | int | None) -> None:
        """Raises ForbiddenError unless a request may have the class that it would have.

        own: the model's. asked: the request's ``priority``; it can only lower the class.
        """
        lowered = asked == Priority.BEST_EFFORT.value
        if (Priority.BEST_EFFORT if lowered else own) not in self.priorities:
            raise ForbiddenError(
                f"the token of tenant {self.tenant!r} does not allow {own.value} requests; "
                f"it allows priority {_listed(self.priorities)}"
            )

    def sees(self, model: str, tenant: str | None) -> bool:
        """Whether a model is there for this caller. tenant: the model's, None if not loaded."""
        if self.models is None:
            return tenant == self.tenant
        return ALL_MODELS in self.models or model in self.models


# Where no tokens are configured.
ANYONE = Caller("", frozenset(Call), frozenset({ALL_MODELS}), frozenset(Priority))


class Tokens:
    """Finds the caller who has a token."""

    def __init__(self, tokens: Sequence[TokenOptions]) -> None:
        self._callers: list[tuple[bytes, Caller]] = []
        self.replace(tokens)

    def replace(self, tokens: Sequence[TokenOptions]) -> None:
        """Know these from now on, and no others. May be called from any thread."""
        self._callers = [(bytes.fromhex(token.sha256), Caller.of(token)) for token in tokens]

    @classmethod
    def of(cls, tokens: Sequence[TokenOptions]) -> Self | None:
        """None where there are no tokens, and nobody is asked for one."""
        return cls(tokens) if tokens else None

    def caller(self, authorizations: Sequence[str]) -> Caller:
        """Who sent a request with these values of the header ``Authorization``.

        Takes as long for a token that is known as for any other.

        Raises UnauthenticatedError.
        """
        if len(authorizations) != 1:
            raise UnauthenticatedError(
                f"one header 'Authorization: Bearer TOKEN' is needed, got {len(authorizations)}"
            )
        scheme, _, token = authorizations[0].partition(" ")
        if scheme.lower() != "bearer":
            raise UnauthenticatedError("Authorization must be 'Bearer TOKEN'")
        token = token.strip()
        digest = hashlib.sha256(token.encode()).digest()
        found = None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None or len(token) < MIN_TOKEN_CHARS:
            raise UnauthenticatedError("the token is not known")
        return found


def new_token() -> str:
    """A token that nobody has."""
    return _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def sha256(token: str) -> str:
    """What a configuration holds of `token`."""
    return hashlib.sha256(token.encode()).hexdigest()


def _listed(members: frozenset[Call] | frozenset[Priority]) -> str:
    return ", ".join(sorted(member.value for member in members))
