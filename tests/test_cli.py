"""The command, run as people run it."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from missile_jax.cli import app

MISSILE = Path(sys.executable).with_name("missile")
FACTORY = '''
import os
from pathlib import Path

import jax
import numpy as np

from missile_jax import Model

HERE = Path(__file__).parent


def make():
    """Doubles its input; on values over 1 says so in one pipe and waits for another."""

    def on_host(x):
        x = np.asarray(x)
        if (x > 1).any():
            os.close(os.open(HERE / "entered", os.O_WRONLY))
            os.close(os.open(HERE / "release", os.O_RDONLY))
        return 2 * x

    def apply(_, x):
        return jax.pure_callback(on_host, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    return Model("slow", apply, {}, example=np.zeros((1, 1), np.float32))
'''


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    unset = {name: value for name, value in os.environ.items() if not name.startswith("MISSILE_")}
    return {**unset, "MISSILE_CACHE": str(tmp_path / "cache"), "COLUMNS": "100"}


@pytest.fixture
def missile(environment):
    def missile(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [MISSILE, *arguments],
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return missile


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "slow_models.py").write_text(FACTORY)
    path = tmp_path / "serve.yaml"
    document = {
        "http": {"port": 0},
        "models": {"slow": {"factory": "slow_models:make", "priority": "latency"}},
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_version():
    shown = CliRunner().invoke(app, ["--version"]).stdout
    assert shown == f"missile-jax {version('missile-jax')}\n"


def test_help_shows_how_it_is_used():
    assert "serve" in CliRunner().invoke(app, ["--help"]).stdout
    shown = CliRunner().invoke(app, ["serve", "--help"]).stdout
    assert "  missile serve serve.yaml --http-port 9000" in shown


def test_models_lists_the_zoo(missile):
    assert "squeezenet" in missile("models").stdout.splitlines()


def test_config_prints_what_would_be_served(missile, file):
    done = missile("config", str(file), MISSILE_POLICY="fifo")
    assert done.returncode == 0, done.stderr
    document = yaml.safe_load(done.stdout)
    assert document["policy"] == "fifo"
    assert document["models"]["slow"]["priority"] == "latency"


@pytest.mark.parametrize("command", ["config", "serve"])
def test_a_wrong_configuration_is_explained_without_a_traceback(missile, file, command):
    done = missile(command, str(file), MISSILE_HTTP_PORT="99999", MISSILE_BE_FLOOR="2")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"{file} is wrong:",
        "  MISSILE_HTTP_PORT (http.port): got 99999; must be less than or equal to 65535",
        "  MISSILE_BE_FLOOR (be_floor): got 2; must be less than 1",
    ]


@pytest.fixture
def serving(file, environment) -> Iterator[subprocess.Popen[str]]:
    for name in ("entered", "release"):
        os.mkfifo(file.parent / name)
    process = subprocess.Popen(
        [MISSILE, "serve", file, "--policy", "fifo"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_drains_when_it_is_told_to_stop(serving, file, number):
    assert serving.stdout.readline() == "loading slow\n"
    assert serving.stdout.readline().startswith("loaded slow (latency) in ")
    url = serving.stdout.readline().removeprefix("serving on ").strip()
    assert serving.stdout.readline() == "loaded: slow\n"
    assert serving.stdout.readline() == "stop with Ctrl-C\n"
    answers = []

    def ask() -> None:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=120)
        tensor = {"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [4]}
        connection.request("POST", "/v2/models/slow/infer", json.dumps({"inputs": [tensor]}))
        response = connection.getresponse()
        answers.append((response.status, json.loads(response.read())["outputs"][0]["data"]))
        connection.close()

    client = threading.Thread(target=ask)
    client.start()
    (file.parent / "entered").read_bytes()  # the request runs from here on
    serving.send_signal(number)
    assert serving.stdout.readline() == "draining\n"
    (file.parent / "release").write_bytes(b"")
    client.join()
    assert answers == [(200, [8.0])]
    assert serving.stdout.read() == "stopped\n"
    assert serving.wait() == 0
    assert serving.stderr.read() == ""
