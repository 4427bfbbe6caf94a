"""What people install: the sdist, the wheel made of it, and that wheel in an empty environment."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

TINY = """
import os, sys
import numpy as np
import missile_jax as mj

assert not any(p.startswith({root!r}) for p in sys.path), sys.path
params = dict(w=np.ones((4, 3), np.float32))
with mj.Runtime(cache_dir="cache") as runtime:
    runtime.load("tiny", model=lambda p, x: x @ p["w"], params=params, example=np.ones((1, 4)))
    print(runtime.infer("tiny", np.full((1, 4), 2.0)).tolist())
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, run away from the source tree."""
    # Nothing of this environment may help, so the new one sees only what was installed into it.
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel, the second built from the first."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run([str(word) for word in build], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (wheel,) = dist.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def sandbox(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing but the wheel, its zoo and what they ask for."""
    folder = tmp_path_factory.mktemp("sandbox")
    venv.create(folder, with_pip=True)
    # pip itself may use this machine's settings and cache.
    install = [folder / "bin/python", "-m", "pip", "install", "-qq", f"{wheel}[zoo]"]
    if sys.version_info[:2] == (3, 11):
        install += ["--constraint", ROOT / "constraints.txt"]
    done = subprocess.run([str(word) for word in install], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"missile_jax"}
    for name in (
        "missile_jax/__init__.py",
        "missile_jax/py.typed",
        "missile_jax/_native.pyi",
        "missile_jax/data/gpu_targets/h100.txtpb",
        "missile_jax/data/gpu_targets/README.md",
        "missile_jax/models/__init__.py",
        "missile_jax/program/target.py",
        "missile_jax/libmissile_pjrt.so",
    ):
        assert name in names
    assert any(n.startswith("missile_jax/_native.") and n.endswith(".so") for n in names)
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert not [n for n in names if "__pycache__" in n]


def test_the_sdist_holds_what_a_build_needs(dist):
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    for name in ("pyproject.toml", "LICENSE", "xla_plugin/CMakeLists.txt", "models/zoo.py"):
        assert name in names
    for folder in ("benchmarks/results", "build", "out", ".venv", "typings"):
        assert not [name for name in names if name.startswith(folder)]


def test_it_imports_where_it_is_installed(sandbox, tmp_path):
    python = sandbox / "bin/python"
    code = "import missile_jax, missile_jax._native as n; print(missile_jax.__file__, n.__file__)"
    for path in run(python, "-c", code, cwd=tmp_path).split():
        assert path.startswith(str(sandbox))
    code = "from missile_jax import models; print(models.__file__, *models.names())"
    path, *names = run(python, "-c", code, cwd=tmp_path).split()
    assert path.startswith(str(sandbox))
    assert "squeezenet" in names
    code = "from missile_jax.program.target import target_names; print(*target_names())"
    assert run(python, "-c", code, cwd=tmp_path).split() == ["h100"]


def test_the_command_says_its_version(sandbox, wheel, tmp_path):
    version = wheel.name.split("-")[1]
    assert run(sandbox / "bin/missile", "--version", cwd=tmp_path) == f"missile-jax {version}\n"


def test_a_model_runs(sandbox, tmp_path):
    code = TINY.format(root=str(ROOT))
    assert run(sandbox / "bin/python", "-c", code, cwd=tmp_path) == "[[8.0, 8.0, 8.0]]\n"
