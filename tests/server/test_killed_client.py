"""A client in a process of its own that is killed in the middle of its request."""

import subprocess
import sys

from harness import tensor, wait_for_queue

CLIENT = """
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], sys.argv[2].encode())
"""


def test_a_client_that_is_killed_cancels_its_request(runtime, server, connect, client, gate):
    def cancelled() -> int:
        return runtime.stats()["models"]["gate"]["cancel_count"]

    gate.shut()
    before = cancelled()
    running = connect(server)
    running.send("POST", "/v2/models/gate/infer", tensor(1))
    gate.wait_entered()
    url = f"{server.url}/v2/models/gate/infer"
    with subprocess.Popen([sys.executable, "-c", CLIENT, url, tensor(2)]) as killed:
        wait_for_queue(runtime, client, 1)
        killed.kill()
    wait_for_queue(runtime, client, 0)
    assert cancelled() == before + 1
    gate.open()
    assert running.receive()[0] == 200
