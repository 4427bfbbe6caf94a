"""NVIDIA's clients at doors that ask for a token: `triton_access_session.py JSON`.

The JSON object has the addresses `http` and `grpc`, a `token` that may infer and see, whether the
doors speak `tls`, and the PEM files of a client. Raises AssertionError where the doors are not what
they should be.
"""

import asyncio
import json
import ssl
import sys

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException

GIVEN = json.loads(sys.argv[1])
X = np.arange(4, dtype=np.float32).reshape(1, 4)


def headers(token=GIVEN["token"]):
    """New ones for each call: the clients write into what they are given."""
    return {"authorization": f"Bearer {token}"}


def x(triton):
    tensor = triton.InferInput("input", [1, 4], "FP32")
    tensor.set_data_from_numpy(X)
    return [tensor]


def refused(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except InferenceServerException as error:
        return error.status()
    raise AssertionError("no error came")


def ask(client, triton, unknown, forbidden):
    assert client.is_server_ready()
    assert client.get_model_metadata("mlp", headers=headers()) is not None
    got = client.infer("mlp", x(triton), headers=headers()).as_numpy("output")
    np.testing.assert_array_equal(got, [[6, 6, 6]])
    assert refused(client.infer, "mlp", x(triton)) == unknown
    wrong = headers(GIVEN["token"] + "x")
    assert refused(client.get_model_metadata, "mlp", headers=wrong) == unknown
    assert refused(client.unload_model, "mlp", headers=headers()) == forbidden


def context():
    made = ssl.create_default_context(cafile=GIVEN["authority"])
    made.load_cert_chain(GIVEN["client"], GIVEN["client_key"])
    return made


def over_http():
    options = {"ssl": True, "ssl_context_factory": context} if GIVEN["tls"] else {}
    with triton_http.InferenceServerClient(GIVEN["http"], **options) as client:
        ask(client, triton_http, "401", "403")


async def ask_aio(client, triton, unknown):
    got = await client.infer("mlp", x(triton), headers=headers())
    np.testing.assert_array_equal(got.as_numpy("output"), [[6, 6, 6]])
    for refused in ({}, headers(GIVEN["token"] + "x")):
        (error,) = await asyncio.gather(
            client.infer("mlp", x(triton), headers=refused), return_exceptions=True
        )
        assert isinstance(error, InferenceServerException)
        assert error.status() == unknown


async def over_http_aio():
    options = {"ssl": True, "ssl_context": context()} if GIVEN["tls"] else {}
    async with triton_http_aio.InferenceServerClient(GIVEN["http"], **options) as client:
        await ask_aio(client, triton_http, "401")


def grpc_options():
    if not GIVEN["tls"]:
        return {}
    return {
        "ssl": True,
        "root_certificates": GIVEN["authority"],
        "private_key": GIVEN["client_key"],
        "certificate_chain": GIVEN["client"],
    }


def over_grpc():
    with triton_grpc.InferenceServerClient(GIVEN["grpc"], **grpc_options()) as client:
        unknown, forbidden = "StatusCode.UNAUTHENTICATED", "StatusCode.PERMISSION_DENIED"
        ask(client, triton_grpc, unknown, forbidden)


async def over_grpc_aio():
    async with triton_grpc_aio.InferenceServerClient(GIVEN["grpc"], **grpc_options()) as client:
        await ask_aio(client, triton_grpc, "StatusCode.UNAUTHENTICATED")


if __name__ == "__main__":
    over_http()
    print("http")
    asyncio.run(over_http_aio())
    print("http-aio")
    over_grpc()
    print("grpc")
    asyncio.run(over_grpc_aio())
    print("grpc-aio")
