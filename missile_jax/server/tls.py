"""Certificates from files."""

from __future__ import annotations

import ssl

from missile_jax.errors import ConfigError
from missile_jax.options import TlsOptions


def ssl_context(options: TlsOptions) -> ssl.SSLContext | None:
    """What a server speaks TLS with, 1.2 or newer; None where there is no certificate.

    Raises ConfigError for a file that cannot be read or holds something else, and for a key that is
    encrypted or of another certificate.
    """
    if options.certificate is None or options.key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    where = f"tls.certificate={options.certificate!r}, tls.key={options.key!r}"

    def password() -> str:
        raise ConfigError(f"{where}: the key is encrypted; it must not be")

    try:
        context.load_cert_chain(options.certificate, options.key, password)
        if options.client_ca is not None:
            where = f"tls.client_ca={options.client_ca!r}"
            context.load_verify_locations(options.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except ssl.SSLError as error:
        reason = (error.reason or "no certificate in PEM").lower().replace("_", " ")
        raise ConfigError(f"{where}: {reason}") from None
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}") from None
    return context
