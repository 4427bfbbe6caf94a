"""Options of the commands that ask a server: a token, and what TLS needs."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated

import typer

from missile_jax.client import Client, address, client_context
from missile_jax.errors import ConfigError

Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="MISSILE_TOKEN",
        show_envvar=False,
        metavar="@FILE",
        help="File with the token that the server asks for. Without @ it is the token itself, "
        "which others on this machine can see; the variable MISSILE_TOKEN takes both.",
    ),
]
Ca = Annotated[
    str | None,
    typer.Option(
        help="PEM file of the authorities that the server's certificate may be of; by default "
        "those that this machine trusts.",
        metavar="FILE",
    ),
]
Cert = Annotated[
    str | None,
    typer.Option(help="PEM file of a certificate for a server that wants one.", metavar="FILE"),
]
Key = Annotated[
    str | None, typer.Option(help="PEM file of its private key, if not in --cert.", metavar="FILE")
]


def connect(
    url: str, token: str | None, ca: str | None, cert: str | None, key: str | None
) -> Client:
    """A client with what these options say. Raises ConfigError."""
    return Client(url, token=token_in(token), tls=context(url, ca, cert, key))


def token_in(given: str | None) -> str | None:
    """The token that ``--token`` stands for. Raises ConfigError for a file that cannot be read."""
    if given is None or not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"--token {given}: cannot be read: {why}") from None


def context(url: str, ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """What TLS to `url` needs; None for plain HTTP. Raises ConfigError."""
    if address(url).tls:
        return client_context(ca, cert, key)
    given = {"--ca": ca, "--cert": cert, "--key": key}
    if any(given.values()):
        names = ", ".join(name for name, value in given.items() if value)
        raise ConfigError(f"{names}: {url} is plain HTTP; these are for https://")
    return None
