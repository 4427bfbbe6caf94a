"""Compressed bodies: ``Content-Encoding`` and ``Accept-Encoding``, gzip and deflate.

A request is inflated in steps and only up to a limit, so that a small body cannot become a large
one. Triton's clients mean zlib's format by deflate, as RFC 9110 does.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

from missile_jax.server.tensors import CodecError

# Window bits of zlib: 16 more for gzip's header.
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
ENCODINGS = tuple(_WINDOW_BITS)
# A shorter answer is sent as it is: it would not fit into fewer packets.
WORTH_IT_BYTES = 1024
# Numbers compress little better at higher levels, and take much longer.
_LEVEL = 1
# No format expands more than a thousandfold, so that a step gives 16 MiB at most.
_STEP_BYTES = 2**14


class TooLongError(CodecError):
    """A body holds more than the limit."""


def inflate(
    body: bytes, encoding: str, max_bytes: int, grew: Callable[[int], None] | None = None
) -> bytes:
    """What `body` holds, which was compressed as `encoding`, one of `ENCODINGS`.

    grew: told of each piece by its size; what it raises ends the work.

    Raises TooLongError as soon as it exceeds `max_bytes`, CodecError for a body that is damaged or
    cut off, or that goes on behind its end.
    """
    stream = zlib.decompressobj(_WINDOW_BITS[encoding])
    rest, pieces, left = memoryview(body), [], max_bytes
    while rest and not stream.eof:
        try:
            piece = stream.decompress(rest[:_STEP_BYTES], left + 1)
        except zlib.error:
            raise CodecError(f"the body is not {encoding}, as Content-Encoding says") from None
        left -= len(piece)
        if left < 0:
            raise TooLongError(f"the body holds more than the limit of {max_bytes} bytes")
        if grew is not None:
            grew(len(piece))
        pieces.append(piece)
        rest = rest[_STEP_BYTES:]
    if rest or not stream.eof or stream.unused_data:
        raise CodecError(f"the body must be one whole {encoding} stream")
    return b"".join(pieces)


def deflate(body: bytes, encoding: str) -> bytes:
    """`body` compressed as `encoding`, one of `ENCODINGS`. Inverse of `inflate`."""
    stream = zlib.compressobj(_LEVEL, wbits=_WINDOW_BITS[encoding])
    return stream.compress(body) + stream.flush()


def accepted(header: str) -> str | None:
    """The encoding that an ``Accept-Encoding`` asks for first; None for none that is known here."""
    for choice in header.split(","):
        name, *parameters = (part.strip().lower() for part in choice.split(";"))
        if name in _WINDOW_BITS and not any(_is_zero(p) for p in parameters):
            return name
    return None


def _is_zero(parameter: str) -> bool:
    key, _, value = parameter.partition("=")
    return key.strip() == "q" and not value.strip().strip("0.")
