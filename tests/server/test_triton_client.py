"""NVIDIA's client, unchanged, in a process of its own."""

import subprocess
import sys
from pathlib import Path

SESSION = Path(__file__).with_name("triton_session.py")


def test_tritonclient_finds_all_it_needs(server):
    ended = subprocess.run(
        [sys.executable, SESSION, f"{server.host}:{server.port}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("ok") == 5
