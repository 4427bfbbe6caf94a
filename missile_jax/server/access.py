"""Who gets in, to be read again while a server serves: its tokens and its certificates."""

from __future__ import annotations

import logging

from missile_jax.errors import ConfigError
from missile_jax.options import ServerOptions
from missile_jax.server.auth import Tokens
from missile_jax.server.tls import Certificates, Tls

_log = logging.getLogger(__name__)
_READ_AGAIN = ("auth", "tls")


class Access:
    """Tokens and certificates that all doors of a server share; None for none.

    Raises ConfigError as `Tls.of` does.
    """

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self.tokens = Tokens.of(options.auth.tokens)
        self.tls = Tls.of(options.tls)

    def replace(self, options: ServerOptions) -> None:
        """Take both from `options`, or neither.

        The next request of each client is held to the new tokens, on open connections and streams
        too; new connections see the new certificates. Whatever else differs is logged: it holds
        from the next start on.

        Raises ConfigError where something is wrong or a protection would be turned on or off, since
        doors are built with or without it.
        """
        before, after = _protections(self._options), _protections(options)
        for name, was in before.items():
            if was != after[name]:
                how = "off" if was else "on"
                raise ConfigError(f"{name} is turned {how}, which needs a restart")
        certificates = Certificates.read(options.tls)
        if self.tls is not None and certificates is not None:
            self.tls.now = certificates
        if self.tokens is not None:
            self.tokens.replace(options.auth.tokens)
        others = [
            name
            for name in type(options).model_fields
            if name not in _READ_AGAIN
            and getattr(options, name) != getattr(self._options, name, None)
        ]
        if others:
            _log.warning("changed, but it needs a restart: %s", ", ".join(others))


def _protections(options: ServerOptions) -> dict[str, bool]:
    return {
        "auth.tokens": bool(options.auth.tokens),
        "tls.certificate": options.tls.certificate is not None,
        "tls.client_ca": options.tls.client_ca is not None,
    }
