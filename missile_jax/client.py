"""A small client of a running server, over HTTP with binary tensors.

Any client of the Open Inference Protocol does; this one is what the command ``missile`` uses.
"""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import quote, urlsplit

import numpy as np
import orjson

from missile_jax.errors import ConfigError, ServerError
from missile_jax.server.codec import InferRequest, decode_response, encode_request
from missile_jax.server.tensors import CodecError

URL = "http://127.0.0.1:8000"
LENGTH_HEADER = "Inference-Header-Content-Length"


class Client:
    """One kept-alive connection, for one thread at a time. Used in a ``with`` block, or closed.

    url: such as ``"http://127.0.0.1:8000"``; anything else raises ConfigError.
    timeout_s: how long to wait for the server each time it is silent.

    Every call raises ServerError where no server answers, or where it answers with an error.
    """

    def __init__(self, url: str = URL, *, timeout_s: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self._connection = http.client.HTTPConnection(*address(url), timeout=timeout_s)

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
            self._connection.request(method, path, body, headers or {})
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            why = getattr(error, "strerror", None) or error or type(error).__name__
            raise ServerError(f"no answer from {self.url}: {why}") from None
        if response.status != 200:
            raise ServerError(f"{self.url} answered {response.status}: {reason(content)}")
        return response.headers, content


def address(url: str) -> tuple[str, int]:
    """Host and port of a URL. Raises ConfigError for any but ``http://HOST[:PORT]``."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port, parts = None, 0, urlsplit("")
    if parts.scheme != "http" or not host or parts.path.strip("/") or parts.query:
        raise ConfigError(f"URL {url!r} must be http://HOST or http://HOST:PORT")
    return host, port


def reason(body: bytes) -> str:
    """What an error's body says, in one line."""
    try:
        return str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return repr(body[:200])
