"""benchmarks.servers: a server is up once it listens, and says itself why it is not."""

import os
import sys

import pytest

from benchmarks.servers import free_port, running

LISTEN = """
import socket, sys, time
print("begins", flush=True)
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listening:
    listening.accept()
    time.sleep(3600)
"""


def test_a_server_is_yielded_once_it_listens_and_ends_with_the_block() -> None:
    port = free_port()
    with running([sys.executable, "-c", LISTEN, str(port)], port) as server:
        server.check()
        assert server.said() == "begins"
    assert server.process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.killpg(server.process.pid, 0)


def test_one_that_ends_says_why() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    with (
        pytest.raises(RuntimeError, match="ended with 1:\nno such model"),
        running(command, free_port()),
    ):
        pytest.fail("it never listened")


def test_one_that_ends_after_it_listened_is_found_out() -> None:
    port = free_port()
    code = LISTEN.replace("time.sleep(3600)", "sys.exit('x' * 5000 + ' out of room')")
    with running([sys.executable, "-c", code, str(port)], port) as server:
        server.process.wait(60)
        with pytest.raises(RuntimeError, match="x out of room") as caught:
            server.check()
    assert 1000 < len(str(caught.value)) < 2000
