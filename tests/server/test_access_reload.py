"""Tokens and certificates that are read again while a server serves: for whom, and from when on."""

import contextlib
import ssl
import threading
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path

import grpc
import pytest
import trustme
from harness import Client, mlp, tensor
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from missile_jax import Runtime
from missile_jax.errors import ConfigError
from missile_jax.options import (
    AuthOptions,
    GrpcOptions,
    HttpOptions,
    ServerOptions,
    TlsOptions,
    TokenOptions,
)
from missile_jax.server.access import Access
from missile_jax.server.auth import new_token, sha256
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.grpc.server import GrpcServer
from missile_jax.server.serve import HttpServer

WAIT_S = 60


@pytest.fixture(scope="module")
def runtime(tmp_path_factory) -> Iterator[Runtime]:
    with Runtime(cache_dir=tmp_path_factory.mktemp("cache")) as runtime:
        runtime.load(mlp())
        yield runtime


class Files:
    """PEM files of one server, of an authority that is made anew with each certificate."""

    def __init__(self, folder: Path) -> None:
        self.options = TlsOptions(
            certificate=str(folder / "server.pem"),
            key=str(folder / "server.key"),
            client_ca=str(folder / "clients.pem"),
        )
        self.renew()

    def renew(self) -> trustme.CA:
        """The authority of the server and of its clients from now on."""
        authority = trustme.CA()
        made = authority.issue_cert("127.0.0.1")
        Path(str(self.options.certificate)).write_bytes(made.cert_chain_pems[0].bytes())
        Path(str(self.options.key)).write_bytes(made.private_key_pem.bytes())
        Path(str(self.options.client_ca)).write_bytes(authority.cert_pem.bytes())
        self.authority = authority
        return authority


def https(server: HttpServer, authority: trustme.CA) -> HTTPSConnection:
    """A connection of a client that trusts `authority` and has a certificate of it."""
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    authority.issue_cert("client@example.org").configure_cert(context)
    return HTTPSConnection("127.0.0.1", server.port, context=context, timeout=WAIT_S)


def live(connection: HTTPSConnection) -> bool:
    connection.request("GET", "/v2/health/live")
    response = connection.getresponse()
    response.read()
    return response.status == 200


@contextlib.contextmanager
def channel(server: GrpcServer, authority: trustme.CA) -> Iterator:
    """A stub on a connection of its own."""
    client = authority.issue_cert("client@example.org")
    credentials = grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(),
        client.private_key_pem.bytes(),
        client.cert_chain_pems[0].bytes(),
    )
    own = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(server.url, credentials, own) as made:
        yield service_pb2_grpc.GRPCInferenceServiceStub(made)


def test_new_connections_see_new_certificates_and_old_ones_go_on(runtime, tmp_path):
    files = Files(tmp_path)
    options, old = ServerOptions(tls=files.options), files.authority
    access, dataplane = Access(options), Dataplane(runtime)
    with (
        HttpServer(dataplane, HttpOptions(port=0), tls=access.tls) as http,
        GrpcServer(dataplane, GrpcOptions(port=0), tls=access.tls) as rpc,
        contextlib.closing(https(http, old)) as open_before,
        channel(rpc, old) as stub_before,
    ):
        assert live(open_before)
        assert stub_before.ServerLive(pb.ServerLiveRequest(), timeout=WAIT_S).live
        new = files.renew()
        with contextlib.closing(https(http, old)) as connection:
            assert live(connection), "files alone change nothing"
        access.replace(options)
        for authority, accepted in ((new, True), (old, False)):
            with contextlib.closing(https(http, authority)) as connection:
                if accepted:
                    assert live(connection)
                else:
                    with pytest.raises(ssl.SSLCertVerificationError):
                        live(connection)
            with channel(rpc, authority) as stub:
                if accepted:
                    assert stub.ServerLive(pb.ServerLiveRequest(), timeout=WAIT_S).live
                else:
                    with pytest.raises(grpc.RpcError) as caught:
                        stub.ServerLive(pb.ServerLiveRequest(), timeout=WAIT_S)
                    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        # A client that trusts the new server, with a certificate of the old authority.
        mixed = ssl.create_default_context(cadata=new.cert_pem.bytes().decode())
        old.issue_cert("client@example.org").configure_cert(mixed)
        with (
            contextlib.closing(
                HTTPSConnection("127.0.0.1", http.port, context=mixed, timeout=WAIT_S)
            ) as connection,
            pytest.raises((ssl.SSLError, ConnectionError)),
        ):
            live(connection)
        assert live(open_before)
        assert stub_before.ServerLive(pb.ServerLiveRequest(), timeout=WAIT_S).live


@pytest.mark.parametrize("broken", ["certificate", "key", "client_ca"])
def test_a_broken_file_leaves_the_old_in_force(runtime, tmp_path, broken):
    files, token = Files(tmp_path), new_token()
    known = AuthOptions(tokens=[TokenOptions(tenant="t", sha256=sha256(token))])
    options, old = ServerOptions(tls=files.options, auth=known), files.authority
    access = Access(options)
    assert access.tokens is not None
    with HttpServer(Dataplane(runtime), HttpOptions(port=0), tls=access.tls) as http:
        files.renew()
        Path(getattr(files.options, broken)).write_text("cut off")
        other = AuthOptions(tokens=[TokenOptions(tenant="t", sha256=sha256(new_token()))])
        with pytest.raises(ConfigError, match="tls"):
            access.replace(ServerOptions(tls=files.options, auth=other))
        with contextlib.closing(https(http, old)) as connection:
            assert live(connection)
        assert access.tokens.caller([f"Bearer {token}"]).tenant == "t"


def tokens(*known: str, **rights) -> ServerOptions:
    return ServerOptions(
        auth=AuthOptions(
            tokens=[TokenOptions(tenant="default", sha256=sha256(t), **rights) for t in known]
        )
    )


def test_tokens_hold_at_once_on_open_connections_and_streams(runtime, connect):
    first, second = new_token(), new_token()
    access = Access(tokens(first))
    dataplane = Dataplane(runtime, tokens=access.tokens)
    more = threading.Semaphore(0)

    def requests():
        for _ in range(3):
            message = pb.ModelInferRequest(model_name="mlp")
            message.inputs.add(name="input", datatype="FP32", shape=[1, 4])
            message.raw_input_contents.append(bytes(16))
            yield message
            assert more.acquire(timeout=WAIT_S)

    with (
        HttpServer(dataplane, HttpOptions(port=0)) as http,
        GrpcServer(dataplane, GrpcOptions(port=0)) as rpc,
        grpc.insecure_channel(rpc.url) as plain,
    ):
        client: Client = connect(http)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(plain)
        metadata = [("authorization", f"Bearer {first}")]
        stream = stub.ModelStreamInfer(requests(), metadata=metadata)
        assert next(stream).error_message == ""
        assert client.ask("GET", "/v2", Authorization=f"Bearer {first}")[0] == 200
        access.replace(tokens(second))
        assert client.ask("GET", "/v2", Authorization=f"Bearer {first}")[0] == 401
        assert client.ask("GET", "/v2", Authorization=f"Bearer {second}")[0] == 200
        path = "/v2/models/mlp/infer"
        assert client.ask("POST", path, tensor(1), Authorization=f"Bearer {first}")[0] == 401
        more.release()
        assert next(stream).error_message == "the token is not known"
        access.replace(tokens(first, calls=["metadata"]))
        more.release()
        assert "does not allow infer calls" in next(stream).error_message
        more.release()
        assert list(stream) == []


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (tokens(new_token()), ServerOptions(), "auth.tokens is turned off"),
        (ServerOptions(), tokens(new_token()), "auth.tokens is turned on"),
    ],
)
def test_protection_is_not_turned_on_or_off(before, after, message):
    with pytest.raises(ConfigError, match=message):
        Access(before).replace(after)


def test_mtls_is_not_turned_off(tmp_path):
    files = Files(tmp_path)
    access = Access(ServerOptions(tls=files.options))
    without = files.options.model_copy(update={"client_ca": None})
    with pytest.raises(ConfigError, match=r"tls\.client_ca is turned off"):
        access.replace(ServerOptions(tls=without))


def test_what_needs_a_restart_is_named(caplog):
    token = new_token()
    changed = tokens(token).model_copy(update={"http": HttpOptions(port=1)})
    Access(tokens(token)).replace(changed)
    assert caplog.messages == ["changed, but it needs a restart: http"]
