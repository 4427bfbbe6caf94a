"""The wrapper around the CUDA plugin, where there is a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu


def test_two_tenants_share_a_gpu_in_one_process(gpu):
    env = os.environ | {
        "JAX_PLATFORMS": "missile,cpu",
        "MISSILE_PJRT_STATISTICS": "1",
        # The tests' own process and both tenants have a part of the GPU.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    program = Path(__file__).parent / "gpu_tenants.py"
    done = subprocess.run([sys.executable, program], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["platforms"] == ["gpu"] * 3
    assert found["same"]
    assert found["donated"]
    assert found["again"]
    assert found["error"] < 0.1
    assert "tenant 'be' asks for" in found["refused"]
    assert found["limit"] == 64 << 20
    assert found["placed"] >= 100
