"""TLS and mTLS with real certificates and NVIDIA's clients, which show a token too."""

import contextlib
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from harness import mlp
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from missile_jax import Runtime
from missile_jax.errors import ConfigError
from missile_jax.options import GrpcOptions, HttpOptions, TlsOptions, TokenOptions
from missile_jax.server.auth import Tokens, new_token, sha256
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.grpc.server import GrpcServer
from missile_jax.server.serve import HttpServer
from missile_jax.server.tls import Tls

SESSION = Path(__file__).with_name("triton_access_session.py")


class Files(NamedTuple):
    """PEM files of an authority, and of a server's and a client's certificates of it."""

    authority: str
    server: str
    server_key: str
    client: str
    client_key: str


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    paths = Files(*(str(folder / f"{name}.pem") for name in Files._fields))
    authority.cert_pem.write_to_path(paths.authority)
    for names, certificate, key in (
        (("127.0.0.1", "localhost"), paths.server, paths.server_key),
        (("client@example.org",), paths.client, paths.client_key),
    ):
        made = authority.issue_cert(*names)
        made.cert_chain_pems[0].write_to_path(certificate)
        made.private_key_pem.write_to_path(key)
    return paths


class Doors(NamedTuple):
    http: HttpServer
    grpc: GrpcServer


TOKEN = new_token()


@pytest.fixture(scope="module", params=["plain", "tls", "mtls"])
def doors(request, files, runtime) -> Iterator[Doors]:
    options = TlsOptions()
    if request.param != "plain":
        authority = files.authority if request.param == "mtls" else None
        options = TlsOptions(certificate=files.server, key=files.server_key, client_ca=authority)
    tokens = Tokens([TokenOptions(tenant="default", sha256=sha256(TOKEN))])
    dataplane, tls = Dataplane(runtime, tokens=tokens), Tls.of(options)
    with (
        HttpServer(dataplane, HttpOptions(port=0), tls=tls) as http,
        GrpcServer(dataplane, GrpcOptions(port=0), tls=tls) as rpc,
    ):
        yield Doors(http, rpc)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory) -> Iterator[Runtime]:
    with Runtime(cache_dir=tmp_path_factory.mktemp("cache")) as runtime:
        runtime.load(mlp())
        yield runtime


def test_tritonclient_comes_in_with_a_token_and_a_certificate(doors, files):
    given = {
        "http": doors.http.url.split("://")[1],
        "grpc": doors.grpc.url,
        "token": TOKEN,
        "tls": doors.http.url.startswith("https"),
        **files._asdict(),
    }
    ended = subprocess.run(
        [sys.executable, SESSION, json.dumps(given)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.split() == ["http", "http-aio", "grpc", "grpc-aio"]


@pytest.fixture(scope="module")
def mutual(runtime, files) -> Iterator[Doors]:
    options = TlsOptions(certificate=files.server, key=files.server_key, client_ca=files.authority)
    dataplane, tls = Dataplane(runtime), Tls.of(options)
    with (
        HttpServer(dataplane, HttpOptions(port=0), tls=tls) as http,
        GrpcServer(dataplane, GrpcOptions(port=0), tls=tls) as rpc,
    ):
        yield Doors(http, rpc)


def https(server: HttpServer, context: ssl.SSLContext) -> int:
    connection = HTTPSConnection("127.0.0.1", server.port, context=context, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status


def test_a_client_without_a_certificate_of_the_authority_is_refused(mutual, files, tmp_path):
    context = ssl.create_default_context(cafile=files.authority)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        https(mutual.http, context)
    stranger = trustme.CA().issue_cert("client@example.org")
    stranger.configure_cert(context)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        https(mutual.http, context)
    context.load_cert_chain(files.client, files.client_key)
    assert https(mutual.http, context) == 200


def live(server: GrpcServer, authority: str, key: str | None, certificate: str | None) -> bool:
    parts = [None if p is None else Path(p).read_bytes() for p in (authority, key, certificate)]
    with grpc.secure_channel(server.url, grpc.ssl_channel_credentials(*parts)) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return stub.ServerLive(pb.ServerLiveRequest(), timeout=60).live


def test_a_grpc_client_without_a_certificate_is_refused(mutual, files):
    with pytest.raises(grpc.RpcError) as caught:
        live(mutual.grpc, files.authority, None, None)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert live(mutual.grpc, files.authority, files.client_key, files.client)


def test_a_handshake_that_does_not_end_is_cut_off(runtime, files):
    tls = Tls.of(TlsOptions(certificate=files.server, key=files.server_key))
    context = ssl.create_default_context(cafile=files.authority)
    options = HttpOptions(port=0, head_timeout_s=0.2)
    with HttpServer(Dataplane(runtime), options, tls=tls) as server:
        for said in (b"", b"\x16\x03\x01\x02\x00\x01"):
            with socket.create_connection((server.host, server.port), timeout=30) as connection:
                connection.sendall(said)
                with contextlib.suppress(ConnectionResetError):
                    assert connection.recv(1) == b""
        assert https(server, context) == 200


def test_versions_before_1_2_are_refused(mutual, files):
    context = ssl.create_default_context(cafile=files.authority)
    context.load_cert_chain(files.client, files.client_key)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        https(mutual.http, context)


def test_files_that_do_not_fit_are_refused(files, tmp_path):
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    locked = tmp_path / "locked.pem"
    key = load_pem_private_key(Path(files.server_key).read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"word")
        )
    )
    for options, message in (
        ({"certificate": files.server, "key": files.client_key}, "key values mismatch"),
        ({"certificate": files.server, "key": str(tmp_path / "no.pem")}, "No such file"),
        ({"certificate": str(junk), "key": files.server_key}, "tls.certificate"),
        ({"certificate": files.server, "key": str(locked)}, "the key is encrypted"),
        (
            {"certificate": files.server, "key": files.server_key, "client_ca": str(junk)},
            "tls.client_ca",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            Tls.of(TlsOptions(**options))


def test_there_is_no_tls_without_a_certificate():
    assert Tls.of(TlsOptions()) is None
