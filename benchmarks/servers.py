"""A server in a process of its own, up to its first answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.request import urlopen

PATIENCE_S = 90.0


def free_port(together: int = 1) -> int:
    """A port that is free, and those that follow it, so many in all."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1]
        if all(_is_free(port) for port in range(first, first + together)):
            return first


@contextmanager
def running(command: Sequence[str], port: int) -> Iterator[subprocess.Popen]:
    """`command`, once it listens on `port`. What it started ends with it.

    Raises RuntimeError with the end of what it wrote, if it ends or does not listen in time.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        try:
            _wait(process, port, log)
            yield process
        finally:
            _end(process)


def await_ready(port: int) -> None:
    """Until its models are loaded, by the protocol's health call. Raises TimeoutError."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            with urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=PATIENCE_S):
                return
        except OSError:  # it is not ready yet
            time.sleep(0.1)
    raise TimeoutError(f"the server on port {port} was not ready within {PATIENCE_S:.0f} s")


def _wait(process: subprocess.Popen, port: int, log) -> None:
    until = time.monotonic() + PATIENCE_S
    while not _listens(port):
        if process.poll() is not None or time.monotonic() > until:
            log.seek(0)
            said = log.read().decode(errors="replace").strip()[-1500:]
            what = "ended" if process.poll() is not None else f"was silent for {PATIENCE_S:.0f} s"
            raise RuntimeError(f"the server {what}:\n{said}")
        time.sleep(0.1)


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)  # what a server left behind
    except ProcessLookupError:
        return


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True
