"""A small client of a running server, over HTTP with binary tensors.

Any client of the Open Inference Protocol does; this one is what the command ``missile`` uses.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlsplit

import numpy as np
import orjson

from missile_jax.errors import ConfigError, ServerError
from missile_jax.server.codec import InferRequest, decode_response, encode_request
from missile_jax.server.tensors import CodecError

URL = "http://127.0.0.1:8000"
LENGTH_HEADER = "Inference-Header-Content-Length"


class Address(NamedTuple):
    """Where a server listens, and whether it speaks TLS there."""

    host: str
    port: int
    tls: bool


class Client:
    """One kept-alive connection, for one thread at a time. Used in a ``with`` block, or closed.

    url: such as ``"http://127.0.0.1:8000"``, or ``https://``; anything else raises ConfigError.
    token: what the server asks its clients for; None for no one.
    tls: how the server is checked and what it is shown, see `client_context`; by default its
        certificate must be of an authority that this machine trusts.
    timeout_s: how long to wait for the server each time it is silent.

    Every call raises ServerError where no server answers, or where it answers with an error.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self.url = url.rstrip("/")
        host, port, self._tls = address(url)
        self._headers = authorization(token)
        if self._tls:
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=timeout_s, context=tls or client_context()
            )
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=timeout_s)

    def models(self) -> list[dict[str, Any]]:
        """Name, version and state of every model there is."""
        return self._document("POST", "/v2/repository/index")

    def metadata(self, model: str) -> dict[str, Any]:
        """Names, datatypes and shapes of a model's tensors; -1 stands for an axis that varies."""
        return self._document("GET", f"/v2/models/{quote(model, '')}")

    def config(self, model: str) -> dict[str, Any]:
        """The largest batch of a model, its priority and its tenant."""
        return self._document("GET", f"/v2/models/{quote(model, '')}/config")

    def infer(self, model: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of `model` for `inputs`, both by tensor name."""
        body, length = encode_request(InferRequest(inputs, binary=True))
        path = f"/v2/models/{quote(model, '')}/infer"
        headers, answer = self._ask("POST", path, body, {LENGTH_HEADER: str(length)})
        size = headers.get(LENGTH_HEADER)
        try:
            response = decode_response(answer, None if size is None else int(size))
        except (CodecError, ValueError) as error:
            raise ServerError(f"{self.url} gave no answer of the protocol: {error}") from None
        return dict(response.outputs)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _document(self, method: str, path: str) -> Any:
        _, body = self._ask(method, path)
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            raise ServerError(f"{self.url}{path} answered with what is not JSON") from None

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[http.client.HTTPMessage, bytes]:
        try:
            self._connection.request(method, path, body, {**self._headers, **(headers or {})})
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ServerError(f"no answer from {self.url}: {failure(error, self._tls)}") from None
        if response.status != 200:
            what = f"{self.url} answered {response.status}: {reason(content)}"
            if response.status == 401 and not self._headers:
                what += "; give a token"
            raise ServerError(what)
        return response.headers, content


def address(url: str) -> Address:
    """Where a URL leads. Raises ConfigError for any but ``http[s]://HOST[:PORT]``."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    ends_there = not parts.path.strip("/") and not parts.query
    if parts.scheme not in ("http", "https") or not host or not ends_there:
        raise ConfigError(f"URL {url!r} must be http://HOST or http://HOST:PORT, or https://")
    tls = parts.scheme == "https"
    return Address(host, port or (443 if tls else 80), tls)


def authorization(token: str | None) -> dict[str, str]:
    """The header that shows a token; none without one. Raises ConfigError for what is no token."""
    if token is None:
        return {}
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError("a token must be one word of printable ASCII characters")
    return {"Authorization": f"Bearer {token}"}


def client_context(
    ca: str | None = None, cert: str | None = None, key: str | None = None
) -> ssl.SSLContext:
    """How a server is checked, and what it is shown of the client. All are PEM files.

    ca: of authorities, in place of those that this machine trusts.
    cert, key: a certificate for a server that asks for one (mTLS), and its private key where that
        is not in the same file; it must not be encrypted.

    Raises ConfigError for a file that cannot be read or holds something else.
    """
    if key is not None and cert is None:
        raise ConfigError("a key needs a certificate (cert)")

    def password() -> str:
        raise ConfigError(f"{key or cert} is encrypted; it must not be")

    where = f"ca={ca!r}"
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            where = f"cert={cert!r}, key={key!r}"
            context.load_cert_chain(cert, key, password)
    except ssl.SSLError as error:
        why = (error.reason or "no certificate in PEM").lower().replace("_", " ")
        raise ConfigError(f"{where}: {why}") from None
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}") from None
    return context


def failure(error: Exception, tls: bool) -> str:
    """Why there was no answer, and what may help."""
    why = str(getattr(error, "strerror", None) or error or type(error).__name__)
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _UNKNOWN_AUTHORITY:
            why = f"{error.verify_message}; name its authority (ca)"
        else:
            why = error.verify_message
        return f"its certificate is not accepted: {why}"
    dropped = ConnectionResetError | http.client.RemoteDisconnected | ssl.SSLEOFError
    if isinstance(error, dropped):
        return f"{why}; {_DROPPED[tls]}"
    if isinstance(error, ssl.SSLError):
        said = error.reason or ""
        for part, meaning in _TLS_REASONS.items():
            if part in said:
                return meaning
        return said.lower().replace("_", " ") or why
    return why


# Of OpenSSL: no issuer there, a self-signed one, in a chain too, and a chain that ends too early.
_UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21)
_TLS_REASONS = {
    "WRONG_VERSION_NUMBER": "it speaks no TLS; is it http://?",
    "CERTIFICATE_REQUIRED": "it wants a certificate of the client (cert, key)",
    "UNKNOWN_CA": "the client's certificate is of an authority that it does not know",
}
# Servers on asyncio and uvloop, ours too, close without the alert that says why.
_DROPPED = {
    False: "does it speak https://?",
    True: "does it want a certificate of the client (cert, key), of an authority that it knows?",
}


def reason(body: bytes) -> str:
    """What an error's body says, in one line."""
    try:
        return str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return repr(body[:200])
