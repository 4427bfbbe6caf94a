"""The document of the routes is of all routes and no other, and what it says holds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import mlp, pair

from missile_jax import Runtime
from missile_jax.options import HttpOptions, ObserveOptions
from missile_jax.server.admin import operator_routes
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.http import HttpApp
from missile_jax.server.openapi import document
from missile_jax.server.serve import HttpServer

# `make soak` asks for more.
EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "25")
CONFIG = Path(__file__).with_name("schemathesis.toml")


def test_every_route_is_described_and_no_other(runtime):
    described = {
        (method.upper(), path)
        for path, item in document()["paths"].items()
        for method in item
        if method != "parameters"
    }
    dataplane = Dataplane(runtime)
    more = operator_routes(dataplane, ObserveOptions(page=True))
    assert described == HttpApp(dataplane, max_body_bytes=1, routes=more).routes()


def test_it_is_served(client):
    served = client.get("/v2/openapi.json")
    assert served == document()
    assert served["openapi"] == "3.1.0"


@pytest.fixture
def open_server(tmp_path):
    with Runtime(cache_dir=tmp_path) as runtime:
        runtime.load(mlp())
        runtime.load(pair())
        with HttpServer(
            Dataplane(runtime),
            HttpOptions(port=0, max_body_bytes=100_000),
            observe=ObserveOptions(page=True, timeline_s=0.1),
        ) as server:
            yield server


def test_requests_made_up_from_it_are_answered_as_it_says(open_server, tmp_path):
    ended = subprocess.run(
        [Path(sys.executable).with_name("schemathesis"), "--config-file", CONFIG, "run",
         f"{open_server.url}/v2/openapi.json", "--max-examples", EXAMPLES, "--seed", "1"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr
