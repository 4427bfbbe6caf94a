"""``missile client``, ``models --url`` and ``bench`` against servers with TLS, mTLS and tokens."""

import datetime
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import trustme
import yaml
from typer.testing import CliRunner

from missile_jax import ConfigError, Model, serve
from missile_jax.cli import app
from missile_jax.client import Client
from missile_jax.errors import ServerError
from missile_jax.options import AuthOptions, ServerOptions, TlsOptions, TokenOptions
from missile_jax.server.auth import new_token, sha256

MISSILE = Path(sys.executable).with_name("missile")
TOKEN = new_token()
RIGHTS = {"tenant": "default", "models": ["half"]}


class Files(NamedTuple):
    """PEM files: an authority, certificates of it with their keys, and another authority."""

    ca: str
    server: str
    server_key: str
    client: str
    other_ca: str
    expired: str
    other_client: str


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    folder = tmp_path_factory.mktemp("certificates")
    files = Files(*(str(folder / f"{name}.pem") for name in Files._fields))
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(files.ca)
    other.cert_pem.write_to_path(files.other_ca)
    server = authority.issue_cert("127.0.0.1")
    server.cert_chain_pems[0].write_to_path(files.server)
    server.private_key_pem.write_to_path(files.server_key)
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    for path, made in (
        (files.client, authority.issue_cert("client@example.org")),
        (files.other_client, other.issue_cert("client@example.org")),
        (files.expired, authority.issue_cert("127.0.0.1", not_after=yesterday)),
    ):
        made.private_key_and_cert_chain_pem.write_to_path(path)
    return files


def half() -> Model:
    return Model("half", lambda _, x: x / 2, (), example=np.zeros((1, 3), np.float32))


def start(tls: TlsOptions = TlsOptions(), tokens: tuple[TokenOptions, ...] = ()):
    options = ServerOptions(tls=tls, auth=AuthOptions(tokens=list(tokens)))
    return serve([half()], options=options, http_port=0, block=False)


@pytest.fixture(scope="module")
def urls(files, tmp_path_factory):
    """Of servers by what they ask for: nothing, TLS and a token, both and a certificate."""
    known = (TokenOptions.model_validate({"sha256": sha256(TOKEN), **RIGHTS}),)
    tls = TlsOptions(certificate=files.server, key=files.server_key)
    mutual = tls.model_copy(update={"client_ca": files.ca})
    old = TlsOptions(certificate=files.expired, key=files.expired)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISSILE_CACHE", str(tmp_path_factory.mktemp("cache")))
        with (
            start() as plain,
            start(tls, known) as one,
            start(mutual, known) as both,
            start(old) as expired,
        ):
            yield {
                "plain": plain.url,
                "tls": one.url,
                "mtls": both.url,
                "expired": expired.url,
            }


@pytest.fixture
def token_file(tmp_path) -> str:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    return f"@{tmp_path / 'token'}"


def missile(*arguments: str, **environment: str) -> str:
    done = CliRunner().invoke(app, arguments, env=environment, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("how", ["tls", "mtls"])
def test_every_command_comes_in(urls, files, tmp_path, token_file, how):
    access = ["--ca", files.ca, "--token", token_file]
    access += ["--cert", files.client] * (how == "mtls")
    np.save(tmp_path / "x.npy", np.float32([[2, 4, 6]]))
    shown = missile("client", "half", str(tmp_path / "x.npy"), "--url", urls[how], *access)
    assert "mean 2" in shown
    assert "FP32 [-1,3]" in missile("models", "--url", urls[how], *access)
    figures = tmp_path / "figures.json"
    load = ["--rate", "100", "--seconds", "0.1", "--concurrency", "2", "--json", str(figures)]
    missile("bench", urls[how], "half", *load, *access)
    found = json.loads(figures.read_text())
    assert (found["answered"], found["errors"]) == (10, {})
    assert TOKEN not in figures.read_text()


@pytest.mark.parametrize("given", ["itself", "file"])
def test_the_token_may_be_a_variable(urls, files, token_file, given):
    value = TOKEN if given == "itself" else token_file
    shown = missile("models", "--url", urls["tls"], "--ca", files.ca, MISSILE_TOKEN=value)
    assert "half" in shown
    assert (
        TOKEN
        not in CliRunner().invoke(app, ["models", "--help"], env={"MISSILE_TOKEN": TOKEN}).output
    )


@pytest.mark.parametrize(
    ("server", "options", "says"),
    [
        ("tls", ["--ca", "OTHER_CA"], r"not accepted: unable to get local issuer.*\(ca\)"),
        ("tls", [], r"its certificate is not accepted: .*; name its authority \(ca\)"),
        ("tls", ["--ca", "CA"], "answered 401: .*; give a token"),
        ("tls", ["--ca", "CA", "--token", new_token()], "answered 401: the token is not known$"),
        ("expired", ["--ca", "CA"], "not accepted: certificate has expired"),
        ("mtls", ["--ca", "CA"], r"does it want a certificate of the client \(cert, key\)"),
        ("mtls", ["--ca", "CA", "--cert", "OTHER_CLIENT"], r"of an authority that it knows\?"),
    ],
)
def test_what_keeps_a_client_out_is_said(urls, files, server, options, says):
    named = [getattr(files, o.lower(), o) if o.isupper() else o for o in options]
    with pytest.raises(ServerError, match=says):
        missile("models", "--url", urls[server], *named, MISSILE_TOKEN="")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], r"it wants a certificate of the client \(cert, key\)$"),
        (["--cert", "OTHER_CLIENT"], "is of an authority that it does not know$"),
    ],
)
def test_a_proxy_that_says_what_it_wants_is_understood(files, options, says):
    """OpenSSL sends an alert, unlike asyncio's servers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server, files.server_key)
    context.load_verify_locations(files.ca)
    context.verify_mode = ssl.CERT_REQUIRED

    def serve_one(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        wrapped = context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        with wrapped:
            with pytest.raises(ssl.SSLError):
                wrapped.do_handshake()
            # What is closed with something unread is reset, and the alert with it.
            wrapped.shutdown(socket.SHUT_WR)
            while os.read(wrapped.fileno(), 4096):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve_one, args=(listener,))
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        named = [getattr(files, o.lower(), o) if o.isupper() else o for o in options]
        with pytest.raises(ServerError, match=says):
            missile("models", "--url", url, "--ca", files.ca, *named)
        thread.join()


def test_the_wrong_scheme_is_said(urls, files):
    with pytest.raises(ServerError, match=r"does it speak https://\?"):
        missile("models", "--url", urls["tls"].replace("https", "http"))
    with pytest.raises(ServerError, match=r"it speaks no TLS; is it http://\?"):
        missile("models", "--url", urls["plain"].replace("http", "https"))


def test_a_port_where_nobody_listens_is_said():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        for scheme in ("http", "https"):
            with pytest.raises(ServerError, match=r"no answer from .*: Connection refused"):
                missile("models", "--url", f"{scheme}://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--token", "@nowhere"], "--token @nowhere: cannot be read: No such file"),
        (["--token", "two words"], "must be one word"),
        (["--ca", "nowhere"], "ca='nowhere': No such file"),
        (["--ca", "EMPTY"], "ca=.*: no certificate"),
        (["--key", "SERVER_KEY"], "a key needs a certificate"),
        (["--cert", "SERVER", "--key", "CLIENT"], "key values mismatch"),
    ],
)
def test_options_that_are_wrong_are_said(files, tmp_path, options, says):
    (tmp_path / "empty").touch()
    where = {**files._asdict(), "empty": str(tmp_path / "empty")}
    named = [where.get(o.lower(), o) if o.isupper() else o for o in options]
    with pytest.raises(ConfigError, match=says):
        missile("models", "--url", "https://127.0.0.1:1", *named)


def test_what_is_for_tls_alone_is_not_taken_without():
    with pytest.raises(ConfigError, match=r"--ca: http://127\.0\.0\.1:1 is plain HTTP"):
        missile("models", "--url", "http://127.0.0.1:1", "--ca", "ca.pem")


def test_a_client_in_python_takes_the_same(urls, files):
    from missile_jax.client import client_context

    context = client_context(files.ca, files.client)
    with Client(urls["mtls"], token=TOKEN, tls=context) as client:
        outputs = client.infer("half", {"input": np.float32([[2, 4, 6]])})
    assert outputs["output"].tolist() == [[1, 2, 3]]


def test_sighup_has_the_command_read_tokens_and_certificates_again(files, tmp_path):
    (tmp_path / "small.py").write_text(
        "import numpy as np\nfrom missile_jax import Model\n\n\n"
        "def make():\n"
        "    return Model('half', lambda _, x: x / 2, (), example=np.zeros((1, 3), np.float32))\n"
    )
    (tmp_path / "server.pem").write_bytes(Path(files.server).read_bytes())
    (tmp_path / "server.key").write_bytes(Path(files.server_key).read_bytes())
    second = new_token()

    def configure(token: str, **more) -> None:
        entry = {"sha256": sha256(token), **RIGHTS}
        small = {"factory": "small:make"}
        certificate = {name: str(tmp_path / f"server.{name}") for name in ("pem", "key")}
        document = {
            "http": {"port": 0},
            "models": {"half": small, "later": {**small, "load": "on_request"}},
            "auth": {"tokens": [entry]},
            "tls": {"certificate": certificate["pem"], "key": certificate["key"]},
            **more,
        }
        (tmp_path / "serve.yaml").write_text(yaml.safe_dump(document))

    configure(TOKEN)
    unset = {k: v for k, v in os.environ.items() if not k.startswith("MISSILE_")}
    process = subprocess.Popen(
        [MISSILE, "serve", tmp_path / "serve.yaml"],
        # A token for the client is nothing to the server.
        env={**unset, "MISSILE_CACHE": str(tmp_path / "cache"), "MISSILE_TOKEN": "x"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout.readline() == "loading half\n"
            assert process.stdout.readline().startswith("loaded half")
            url = process.stdout.readline().removeprefix("serving on ").strip()
            assert process.stdout.readline() == "loaded: half\n"
            assert process.stdout.readline() == "loaded on request: later\n"
            assert process.stdout.readline() == "stop with Ctrl-C\n"

            def ask(token: str, ca: str) -> str:
                return missile("models", "--url", url, "--ca", ca, MISSILE_TOKEN=token)

            assert "half" in ask(TOKEN, files.ca)
            configure(second, policy="no such policy")
            process.send_signal(signal.SIGHUP)
            assert "tokens and certificates stay as they were" in process.stderr.readline()
            assert "half" in ask(TOKEN, files.ca)
            authority = trustme.CA()
            authority.cert_pem.write_to_path(str(tmp_path / "new.pem"))
            made = authority.issue_cert("127.0.0.1")
            made.cert_chain_pems[0].write_to_path(str(tmp_path / "server.pem"))
            made.private_key_pem.write_to_path(str(tmp_path / "server.key"))
            configure(second)
            process.send_signal(signal.SIGHUP)
            assert process.stdout.readline() == "tokens and certificates were read again\n"
            assert "half" in ask(second, str(tmp_path / "new.pem"))
            with pytest.raises(ServerError, match="the token is not known"):
                ask(TOKEN, str(tmp_path / "new.pem"))
            with pytest.raises(ServerError, match="certificate is not accepted"):
                ask(second, files.ca)
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "draining\n"
            assert process.wait(60) == 0
        finally:
            process.kill()
