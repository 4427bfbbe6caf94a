"""Each distinct program is compiled once, for as long as anybody uses it."""

import gc
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missile_jax.program.compile import compilations, compile_flat, persistent_cache

X = np.full((2,), 0.5, np.float32)


def jaxpr(constant):
    return jax.make_jaxpr(lambda x: jnp.sin(x) + jnp.float32(constant))(X)


@pytest.mark.smoke
def test_equal_programs_share_an_executable(device):
    first = compile_flat(jaxpr(1.25), device)
    before = compilations()
    assert compile_flat(jaxpr(1.25), device) is first
    assert compilations() == before
    assert compile_flat(jaxpr(1.5), device) is not first
    assert compilations() == before + 1
    np.testing.assert_allclose(first.call(X)[0], np.sin(X) + 1.25, rtol=1e-6)


def test_an_executable_goes_with_its_last_user(device):
    executable = compile_flat(jaxpr(2.25), device)
    before = compilations()
    del executable
    gc.collect()
    compile_flat(jaxpr(2.25), device)
    assert compilations() == before + 1


def test_threads_that_ask_at_once_compile_once(device):
    before = compilations()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: compile_flat(jaxpr(3.25), device), range(16)))
    assert len(set(map(id, made))) == 1
    assert compilations() == before + 1


def test_memory_of_a_launch_is_reported(device):
    assert compile_flat(jaxpr(4.25), device).output_bytes == X.nbytes


@pytest.mark.parametrize("chosen", [None, "mine"])
def test_a_compilation_cache_of_the_users_wins(tmp_path, chosen):
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", chosen)
        persistent_cache(tmp_path)
        assert jax.config.jax_compilation_cache_dir == (chosen or str(tmp_path))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


# A model of either class, and segments at cuts that do not depend on what was measured.
_PROCESS = """
import json, sys
from collections import Counter
import jax, numpy as np
from missile_jax import Model, Runtime
from missile_jax.program.build import Builder
from missile_jax.program.costs import EstimatedCosts
from missile_jax.program.load import load

seen = Counter()
jax.monitoring.register_event_listener(lambda event, **_: seen.update([event]))

def tower(w, x):
    for _ in range(4):
        x = jax.numpy.tanh(x @ w)
    return x

example, w = np.ones((1, 8), np.float32), np.eye(8, dtype=np.float32)
with Runtime(cache_dir=sys.argv[1], quantum_ms=1000) as runtime:
    for priority in ("latency", "best_effort"):
        runtime.load(priority, model=tower, params=w, example=example, priority=priority,
                     buckets=[1, 4])
        runtime.infer(priority, example)
builder = Builder(jax.devices()[0], EstimatedCosts(), 3_000, profile=False)
program = load(Model("cut", tower, w, example=example), builder)
cache = "/jax/compilation_cache/"
print(json.dumps({
    "segments": len(program.plans[1, 0].segments),
    "asked": seen[cache + "compile_requests_use_cache"],
    "found": seen[cache + "cache_hits"],
}))
"""


def test_a_second_process_compiles_nothing_anew(tmp_path):
    def process():
        command = [sys.executable, "-c", _PROCESS, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        return json.loads(done.stdout)

    first, second = process(), process()
    assert first["segments"] == second["segments"] > 1
    assert first["found"] < first["asked"]
    assert second["found"] == second["asked"] == first["asked"]
