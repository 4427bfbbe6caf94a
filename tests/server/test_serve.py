"""A server starts, finds a port, ends, and lets what it has begun end too."""

import threading

import pytest
from harness import Client, tensor

from missile_jax.errors import ConfigError
from missile_jax.options import HttpOptions
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.serve import HttpServer


def test_port_0_takes_a_free_port(runtime):
    with (
        HttpServer(Dataplane(runtime), HttpOptions(port=0)) as one,
        HttpServer(Dataplane(runtime), HttpOptions(port=0)) as two,
    ):
        assert one.port != two.port
        assert one.url == f"http://127.0.0.1:{one.port}"


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 99999), ("not a host", 0)])
def test_an_address_that_is_none_is_refused(runtime, host, port):
    with pytest.raises(ConfigError, match=f"port={port}"):
        HttpServer(Dataplane(runtime), HttpOptions.model_construct(host=host, port=port))


def test_a_port_in_use_is_refused_at_once(runtime, server):
    with pytest.raises(ConfigError, match=f"port={server.port}"):
        HttpServer(Dataplane(runtime), HttpOptions(port=server.port))


def test_a_server_that_was_never_started_gives_its_port_back(runtime):
    never = HttpServer(Dataplane(runtime), HttpOptions(port=0))
    never.close()
    with HttpServer(Dataplane(runtime), HttpOptions(port=never.port)):
        pass


def test_close_waits_for_requests_in_flight_and_may_be_called_again(runtime, gate, connect):
    gate.shut()
    server = HttpServer(Dataplane(runtime), HttpOptions(port=0)).start()
    client = connect(server)
    client.send("POST", "/v2/models/gate/infer", tensor(4))
    gate.wait_entered()
    closing = threading.Thread(target=server.close)
    closing.start()
    gate.open()
    assert client.receive()[0] == 200
    closing.join()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        Client(server).get("/v2/health/live")


def test_close_does_not_wait_for_ever(runtime, gate, connect):
    gate.shut()
    server = HttpServer(Dataplane(runtime), HttpOptions(port=0, drain_s=1)).start()
    client = connect(server)
    client.send("POST", "/v2/models/gate/infer", tensor(4))
    gate.wait_entered()
    server.close()
    status, _, body = client.receive()
    assert status == 503
    assert b"the server stopped" in body
    gate.open()
    assert runtime.run_until_idle()
