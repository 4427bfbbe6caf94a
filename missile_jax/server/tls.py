"""Certificates from files, which may be read again while connections are open."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from missile_jax.errors import ConfigError
from missile_jax.options import TlsOptions


@dataclass(frozen=True, slots=True, eq=False)
class Certificates:
    """What a server shows to its clients, and asks of them.

    context: of all that follows, for those who speak TLS by Python. key, certificate, client_ca:
        what the files hold, for those who do not; no client_ca where clients need no certificate.
    """

    context: ssl.SSLContext
    key: bytes
    certificate: bytes
    client_ca: bytes | None

    @classmethod
    def read(cls, options: TlsOptions) -> Self | None:
        """What the files hold now; None where there is no certificate.

        Raises ConfigError for a file that cannot be read or holds something else, for a key that is
        encrypted or of another certificate, and for files that change while they are read.
        """
        if options.certificate is None or options.key is None:
            return None
        paths = (options.key, options.certificate, options.client_ca)
        before = _contents(paths)
        context = _context(options.certificate, options.key, options.client_ca)
        key, certificate, client_ca = before
        if _contents(paths) != before or key is None or certificate is None:
            raise ConfigError("files of tls changed while they were read; try again")
        return cls(context, key, certificate, client_ca)


class Tls:
    """The certificates of a server's doors.

    now: those that new connections see; may be set from any thread.
    """

    def __init__(self, certificates: Certificates) -> None:
        self.now = certificates

    @classmethod
    def of(cls, options: TlsOptions) -> Self | None:
        """None where there is no certificate. Raises ConfigError as `Certificates.read` does."""
        certificates = Certificates.read(options)
        return None if certificates is None else cls(certificates)

    def context(self) -> ssl.SSLContext:
        """A context for asyncio's servers that is, for each connection, the one of `now`."""
        return _Following(self)


class _Following(ssl.SSLContext):
    """Hands each new connection to the context that holds then.

    Loading files into a context in use would do for a certificate, but leaves half of it new where
    the second file is broken, and never forgets an authority.
    """

    _tls: Tls

    def __new__(cls, tls: Tls) -> Self:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self._tls = tls
        return self

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """What asyncio and uvloop ask for once a connection."""
        return self._tls.now.context.wrap_bio(*args, **kwargs)


def _contents(paths: tuple[str | None, ...]) -> list[bytes | None]:
    try:
        return [None if path is None else Path(path).read_bytes() for path in paths]
    except OSError as error:
        raise ConfigError(f"tls: {error.filename!r}: {error.strerror}") from None


def _context(certificate: str, key: str, client_ca: str | None) -> ssl.SSLContext:
    """TLS 1.2 or newer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    where = f"tls.certificate={certificate!r}, tls.key={key!r}"

    def password() -> str:
        raise ConfigError(f"{where}: the key is encrypted; it must not be")

    try:
        context.load_cert_chain(certificate, key, password)
        if client_ca is not None:
            where = f"tls.client_ca={client_ca!r}"
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except ssl.SSLError as error:
        reason = (error.reason or "no certificate in PEM").lower().replace("_", " ")
        raise ConfigError(f"{where}: {reason}") from None
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}") from None
    return context
