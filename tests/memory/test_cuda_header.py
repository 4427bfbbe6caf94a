"""What is declared of CUDA's driver is held against NVIDIA's own header, where that is."""

import os
import subprocess
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[1] / "fake_cuda" / "header_check.cc"


def headers() -> list[Path]:
    homes = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))]
    homes += sorted(Path("/usr/local").glob("cuda-*"))
    return [home / "include/cuda.h" for home in homes if (home / "include/cuda.h").exists()]


def test_the_declarations_fit_the_header(fake_cuda_library, tmp_path):
    if not (found := headers()):
        pytest.skip("no cuda.h in $CUDA_HOME or /usr/local/cuda*")
    for header in found:
        program = tmp_path / "header_check"
        command = ["c++", "-std=c++17", "-Wall", "-Werror", f'-DCUDA_HEADER="{header}"']
        command += [str(CHECK), "-o", str(program), "-ldl"]
        built = subprocess.run(command, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
        ran = subprocess.run([program, fake_cuda_library], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout
