"""Real plugins to wrap, and processes whose JAX runs on one: bare, or through the wrapper."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import resources
from multiprocessing import get_context
from pathlib import Path
from typing import Any

FILES = Path(sys.prefix) / "pjrt"
H100_FILES = Path(sys.prefix) / "h100"

# By the minor version of the ABI that each has.
LIBRARIES = {
    81: FILES / "xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so",
    112: H100_FILES / "jax_plugins/xla_cuda12/xla_cuda_plugin.so",
    115: FILES / "lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so",
    116: FILES / "jax_plugins/xla_cuda13/xla_cuda_plugin.so",
}
CPU_MINORS = (115, 81)
HEADER = FILES / "xla_plugins/xla_cpu_pjrt/include/pjrt_c_api.h"
WRAPPER = Path(str(resources.files("missile_jax") / "libmissile_pjrt.so"))


def environment(minor: int | None, wrapped: bool, **options: Any) -> dict[str, str]:
    """Of a process whose JAX is on a plugin; options are the wrapper's."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MISSILE_PJRT", "JAX_"))}
    env |= {"JAX_PLATFORMS": "missile,cpu" if wrapped else "bare,cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if minor is not None:
        library = str(LIBRARIES[minor])
        name = "MISSILE_PJRT_LIBRARY" if wrapped else "PJRT_NAMES_AND_LIBRARY_PATHS"
        env[name] = library if wrapped else f"bare:{library}"
    return env | {f"MISSILE_PJRT_{name.upper()}": str(value) for name, value in options.items()}


def run_python(code: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


def run_json(code: str, env: dict[str, str]) -> Any:
    """What a program that must succeed prints last."""
    done = run_python(code, env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@dataclass(frozen=True)
class Process:
    """`process(fn, *args)` calls a function of plugin_worker there."""

    pool: ProcessPoolExecutor

    def __call__(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.pool.submit(fn, *args).result()


def start(env: dict[str, str]) -> ProcessPoolExecutor:
    """One process with this environment and nothing else of it."""
    return ProcessPoolExecutor(1, get_context("spawn"), _become, (env,))


def _become(env: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    sys.path.extend(filter(None, env.get("PYTHONPATH", "").split(os.pathsep)))
