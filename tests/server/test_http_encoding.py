"""Compressed requests and answers over HTTP."""

import gzip
import zlib

import numpy as np
import pytest
from harness import tensor

from missile_jax.server.codec import InferRequest, decode_response, encode_request
from missile_jax.server.encoding import deflate, inflate

LIMIT = 100_000


def request(rows: int) -> bytes:
    x = np.ones((rows, 4), np.float32)
    return encode_request(InferRequest({"input": x}), binary=False)[0]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZIP"])
def test_a_compressed_request_is_inflated(client, encoding):
    body = deflate(request(2), encoding.lower())
    status, headers, answer = client.ask(
        "POST", "/v2/models/mlp/infer", body, Content_Encoding=encoding
    )
    assert status == 200, answer
    assert "content-encoding" not in headers
    np.testing.assert_array_equal(decode_response(answer).outputs["output"], 4 * np.ones((2, 3)))


def test_raw_tensors_may_be_compressed_with_their_header(client):
    body, length = encode_request(InferRequest({"input": np.ones((1, 4), np.float32)}))
    status, _, answer = client.ask(
        "POST", "/v2/models/mlp/infer", gzip.compress(body),
        Content_Encoding="gzip", Inference_Header_Content_Length=str(length),
    )  # fmt: skip
    assert status == 200, answer


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_long_answer_is_compressed_where_that_is_asked_for(client, encoding):
    body = tensor(1, id="x" * 2000)
    path = "/v2/models/gate/infer"
    status, headers, answer = client.ask("POST", path, body, Accept_Encoding=encoding)
    assert status == 200
    assert headers["content-encoding"] == encoding
    assert headers["vary"] == "accept-encoding"
    assert len(answer) == int(headers["content-length"]) < 1000
    assert inflate(answer, encoding, LIMIT) == client.ask("POST", path, body)[2]


def test_a_short_answer_and_an_error_are_not_compressed(client):
    for body in (tensor(1), b"no JSON" + b" " * 2000):
        _, headers, _ = client.ask("POST", "/v2/models/gate/infer", body, Accept_Encoding="gzip")
        assert "content-encoding" not in headers


def test_a_bomb_is_refused_and_the_server_goes_on(client):
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < LIMIT
    status, error = client.error("POST", "/v2/models/mlp/infer", bomb, Content_Encoding="gzip")
    assert (status, f"{LIMIT} bytes" in error) == (413, True)
    assert client.get("/v2/health/live") == {"live": True}


def test_what_is_not_compressed_as_it_says_is_refused(client):
    for body in (request(1), zlib.compress(request(1)), gzip.compress(request(1))[:-4]):
        status, error = client.error("POST", "/v2/models/mlp/infer", body, Content_Encoding="gzip")
        assert (status, "gzip" in error) == (400, True)


def test_an_unknown_encoding_is_refused_with_those_that_are_known(client):
    status, error = client.error("POST", "/v2/models/mlp/infer", request(1), Content_Encoding="br")
    assert status == 415
    assert error == "Content-Encoding br is not known; allowed: gzip, deflate"
