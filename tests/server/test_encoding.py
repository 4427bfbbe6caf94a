"""Compressed bodies: what goes in comes out, and nothing small becomes large."""

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missile_jax.server.encoding import ENCODINGS, TooLongError, accepted, deflate, inflate
from missile_jax.server.tensors import CodecError


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(body=st.binary(max_size=3000))
def test_what_is_deflated_comes_back(encoding, body):
    assert inflate(deflate(body, encoding), encoding, len(body)) == body


def test_it_reads_and_writes_what_the_standard_library_does():
    assert inflate(gzip.compress(b"abc"), "gzip", 3) == b"abc"
    assert inflate(zlib.compress(b"abc"), "deflate", 3) == b"abc"
    assert gzip.decompress(deflate(b"abc", "gzip")) == b"abc"
    assert zlib.decompress(deflate(b"abc", "deflate")) == b"abc"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_inflating_stops_at_the_limit(encoding):
    bomb = deflate(bytes(100_000_000), encoding)
    tracemalloc.start()
    with pytest.raises(TooLongError, match="100000 bytes"):
        inflate(bomb, encoding, 100_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000 + 2 * len(bomb) + 2**20


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"x" + b])
def test_a_damaged_stream_is_refused(encoding, spoil):
    with pytest.raises(CodecError, match=encoding):
        inflate(spoil(deflate(b"abc", encoding)), encoding, 100)


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        ("gzip", "gzip"),
        ("br, Deflate;q=0.5, gzip", "deflate"),
        ("gzip;q=0, deflate; q=0.001", "deflate"),
        ("gzip; q=0.000", None),
        ("identity", None),
        ("", None),
        (";;,=", None),
    ],
)
def test_the_first_known_encoding_is_taken(header, encoding):
    assert accepted(header) == encoding
