"""Arbiters, and tenants in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from missile_jax import _native

_SCRIPT = Path(__file__).with_name("arbiter_child.py")


def arbiters(runtime_folder: Path) -> list[int]:
    """Processes that are the arbiter of a device, for those whose XDG_RUNTIME_DIR is this."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes().split(b"\0")
            mine = f"XDG_RUNTIME_DIR={runtime_folder}".encode() in environment
            if mine and words[0].endswith(b"missile-arbiter"):
                found.append(int(process.name))
    return found


class Child:
    """A tenant in a process of its own: see `arbiter_child`."""

    def __init__(self, device: str, name: str, kind: str = "best_effort",
                 weight: float = 1.0) -> None:  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-S", _SCRIPT, _native.__file__, device, name, kind, str(weight)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.hear("ready")

    def say(self, command: str) -> None:
        assert self.process.stdin is not None
        print(command, file=self.process.stdin, flush=True)

    def hear(self, word: str) -> None:
        """Raises RuntimeError if that is not what it says."""
        assert self.process.stdout is not None
        if (said := self.process.stdout.readline().strip()) != word:
            raise RuntimeError(f"a tenant's process said {said!r} instead of {word!r}")

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.process.pid, number)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
