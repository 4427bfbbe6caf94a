"""Arbiters and tenants in processes of their own."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from missile_jax import _native

CHILDREN = Path(__file__).with_name("children.py")


def arbiters(folder: Path) -> list[int]:
    """Processes that are the arbiter of a device in this folder."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes().split(b"\0")
            mine = f"XDG_RUNTIME_DIR={folder}".encode() in environment
            if mine and words[0].endswith(b"missile-arbiter"):
                found.append(int(process.name))
    return found


class Child:
    """A tenant in a process of its own."""

    def __init__(self, device: str, name: str, kind: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", CHILDREN, _native.__file__, device, name, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.hear("ready")

    def say(self, command: str) -> None:
        assert self.process.stdin is not None
        print(command, file=self.process.stdin, flush=True)

    def hear(self, word: str) -> list[str]:
        assert self.process.stdout is not None
        said = self.process.stdout.readline().split()
        assert said, "the child is dead"
        assert said[0] == word
        return said[1:]

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.process.pid, number)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
