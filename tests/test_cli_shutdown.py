"""`missile serve` while it starts and while it ends."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

MISSILE = Path(sys.executable).with_name("missile")
FACTORY = '''
import os
from pathlib import Path

import jax
import numpy as np

from missile_jax import Model

HERE = Path(__file__).parent


def meet(name):
    """Says so in one pipe and waits for another."""
    os.close(os.open(HERE / f"{name}.entered", os.O_WRONLY))
    os.close(os.open(HERE / f"{name}.release", os.O_RDONLY))


def make():
    """Doubles its input; on values over 1 it meets the test first."""
    if (HERE / "slow_load.entered").exists():
        meet("slow_load")

    def on_host(x):
        x = np.asarray(x)
        if (x > 1).any():
            meet("run")
        return 2 * x

    def apply(_, x):
        return jax.pure_callback(on_host, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    return Model("slow", apply, {}, example=np.zeros((1, 1), np.float32), priority="latency")
'''


class Served:
    """A `missile serve` in a process of its own, and the pipes that its model meets the test at."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder = folder
        self.process = process
        self.address = ""

    def wait_loaded(self) -> None:
        assert self.line() == "loading slow\n"
        assert self.line().startswith("loaded slow")
        self.address = self.line().removeprefix("serving on http://").strip()
        assert [self.line(), self.line()] == ["loaded: slow\n", "stop with Ctrl-C\n"]

    def line(self) -> str:
        return self.process.stdout.readline()

    def wait_entered(self, name: str = "run") -> None:
        (self.folder / f"{name}.entered").read_bytes()

    def release(self, name: str = "run") -> None:
        (self.folder / f"{name}.release").write_bytes(b"")

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        connection = self.send(method, path, body)
        response = connection.getresponse()
        answer = response.status, response.read().decode()
        connection.close()
        return answer

    def send(self, method: str, path: str, body: str | None = None) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self.address, timeout=120)
        connection.request(method, path, body)
        return connection


def tensor(value: float) -> str:
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [value]}
    return json.dumps({"inputs": [tensor]})


INFER = "/v2/models/slow/infer"


@pytest.fixture
def serve(tmp_path) -> Iterator:
    """Starts the command with these options of `http`."""
    started: list[Served] = []

    def serve(*pipes: str, **options) -> Served:
        for name in pipes:
            os.mkfifo(tmp_path / f"{name}.entered")
            os.mkfifo(tmp_path / f"{name}.release")
        (tmp_path / "slow_models.py").write_text(FACTORY)
        models = {"slow": {"factory": "slow_models:make"}}
        document = {"http": {"port": 0, **options}, "models": models}
        (tmp_path / "serve.yaml").write_text(yaml.safe_dump(document))
        unset = {k: v for k, v in os.environ.items() if not k.startswith("MISSILE_")}
        process = subprocess.Popen(
            [MISSILE, "serve", tmp_path / "serve.yaml"],
            env={**unset, "MISSILE_CACHE": str(tmp_path / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(Served(tmp_path, process))
        return started[-1]

    yield serve
    for served in started:
        with served.process as process:
            process.kill()


def test_readiness_goes_off_first(serve):
    served = serve(drain_delay_s=3600.0)
    served.wait_loaded()
    assert served.ask("GET", "/v2/health/ready")[0] == 200
    served.process.send_signal(signal.SIGTERM)
    assert served.line() == "draining\n"
    while served.ask("GET", "/v2/health/ready")[0] != 503:  # a moment after the line
        assert served.process.poll() is None
    assert served.ask("GET", "/v2/health/live")[0] == 200
    assert served.ask("POST", INFER, tensor(1))[0] == 200
    # The second signal ends it at once.
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) == -signal.SIGTERM


def test_what_is_not_done_in_time_fails_and_the_command_exits_with_0(serve):
    served = serve("run", drain_s=1.0)
    served.wait_loaded()
    running = served.send("POST", INFER, tensor(2))
    served.wait_entered()
    served.process.send_signal(signal.SIGTERM)
    response = running.getresponse()
    assert response.status == 503
    assert "the server stopped" in response.read().decode()
    running.close()
    served.release()
    assert served.process.wait(60) == 0


def test_it_is_alive_while_it_loads_and_a_signal_then_ends_it(serve):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    served = serve("slow_load", port=port)
    served.wait_entered("slow_load")
    served.address = f"127.0.0.1:{port}"
    assert served.ask("GET", "/v2/health/live")[0] == 200
    assert served.ask("GET", "/v2/health/ready")[0] == 503
    status, body = served.ask("POST", INFER, tensor(1))
    assert (status, json.loads(body)) == (503, {"error": "model 'slow' is LOADING"})
    served.process.send_signal(signal.SIGTERM)
    served.release("slow_load")
    assert served.line() == "loading slow\n"
    assert served.line().startswith("loaded slow")
    assert served.line() == "draining\n"
    assert served.line() == "stopped\n"
    assert served.process.wait(60) == 0
