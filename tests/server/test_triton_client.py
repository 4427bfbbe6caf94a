"""NVIDIA's clients, unchanged, in a process of their own."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import brain, mlp

from missile_jax import ModelSource
from missile_jax.options import GrpcOptions, HttpOptions, SharedMemoryOptions
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.grpc.server import GrpcServer
from missile_jax.server.repository import Repository
from missile_jax.server.serve import HttpServer


@pytest.fixture(scope="module")
def doors(runtime) -> Iterator[dict[str, str]]:
    """Address by name of the session that it is for."""
    later = ModelSource("later", lambda: dataclasses.replace(mlp(), name="later"), True)
    runtime.load(brain())
    with Repository(runtime, [later]) as repository:
        dataplane = Dataplane(runtime, repository, SharedMemoryOptions(system=True))
        with (
            HttpServer(dataplane, HttpOptions(port=0)) as http,
            GrpcServer(dataplane, GrpcOptions(port=0)) as grpc,
        ):
            yield {
                "triton_session.py": http.url.removeprefix("http://"),
                "triton_grpc_session.py": grpc.url,
            }


@pytest.mark.parametrize(
    ("session", "parts"), [("triton_session.py", 9), ("triton_grpc_session.py", 7)]
)
def test_tritonclient_finds_all_it_needs(doors, session, parts):
    ended = subprocess.run(
        [sys.executable, Path(__file__).with_name(session), doors[session]],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("ok") == parts
