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
from dataclasses import dataclass
from typing import IO
from urllib.request import urlopen

PATIENCE_S = 90.0
# Of what a server wrote, how much says what went wrong.
_TAIL_BYTES = 1500


@dataclass(frozen=True, slots=True)
class Server:
    """A process that was started, and the file of what it writes."""

    process: subprocess.Popen
    log: IO[bytes]

    def check(self) -> None:
        """Raises RuntimeError with the end of what it wrote, if it has ended."""
        if (status := self.process.poll()) is not None:
            raise RuntimeError(f"the server ended with {status}:\n{self.said()}")

    def said(self) -> str:
        """The end of what it wrote so far."""
        # Not read(): the process shares the file's position.
        file = self.log.fileno()
        tail = os.pread(file, _TAIL_BYTES, max(0, os.fstat(file).st_size - _TAIL_BYTES))
        return tail.decode(errors="replace").strip()


def free_port(together: int = 1) -> int:
    """A port that is free, and those that follow it, so many in all."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1]
        if all(_is_free(port) for port in range(first, first + together)):
            return first


@contextmanager
def running(command: Sequence[str], port: int) -> Iterator[Server]:
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
        server = Server(process, log)
        try:
            _await_port(server, port)
            yield server
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


def _await_port(server: Server, port: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while not _listens(port):
        server.check()
        if time.monotonic() > until:
            raise RuntimeError(f"the server was silent for {PATIENCE_S:.0f} s:\n{server.said()}")
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
