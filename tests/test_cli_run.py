"""`missile run`, `missile top` and `missile arbiter`, run as people run them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.arbiter_processes import arbiters
from missile_jax._native import Tenant
from missile_jax.cli import app

MISSILE = Path(sys.executable).with_name("missile")
PLUGIN = Path(sys.prefix) / "pjrt/lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so"


def top(*words) -> str:
    """Not its result: that holds the frame of the test, and so the tenants that live there."""
    return CliRunner().invoke(app, ["top", *words], env={"COLUMNS": "160"}).stdout


TELL = "import json, os; print(json.dumps(dict(os.environ)))"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    if not PLUGIN.exists():
        pytest.fail(f"{PLUGIN} is missing; `make test` installs it there")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("MISSILE_PJRT_LIBRARY", raising=False)
    yield
    for pid in arbiters(tmp_path):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def missile(*words, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MISSILE, *map(str, words)], capture_output=True, text=True, timeout=120, **options
    )


def test_the_program_s_environment_asks_for_the_plugin():
    ran = missile(
        "run", "--memory", "2GiB", "--weight", "2", "--wrap", PLUGIN, "--name", "train",
        "--", sys.executable, "-c", TELL,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    names = {name for name in found if name.startswith("MISSILE_PJRT_")}
    assert {name.removeprefix("MISSILE_PJRT_"): found[name] for name in names} == {
        "ALWAYS": "1",
        "ARBITER": "cpu",
        "CLASS": "best_effort",
        "IDLE": "1",
        "LAUNCHES": "1",
        "LIBRARY": str(PLUGIN),
        "MEMORY": str(2 * 2**30),
        "TENANT": "train",
        "WEIGHT": "2",
    }
    assert found["JAX_PLATFORMS"] == "missile,cpu"


def test_what_another_run_has_set_does_not_go_on():
    # As where a best-effort launcher starts a latency-sensitive server.
    outer = {"MISSILE_PJRT_IDLE": "1", "MISSILE_PJRT_LAUNCHES": "1", "MISSILE_PJRT_ARBITER": "x"}
    ran = missile(
        "run", "--latency", "--no-arbiter", "--wrap", PLUGIN, "--", sys.executable, "-c", TELL,
        env=os.environ | outer,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert not outer.keys() & json.loads(ran.stdout).keys()


@contextmanager
def at_work(latency: Tenant) -> Iterator[None]:
    """Launch after launch, each announced before the last one ends: there is no gap for others."""
    ends = threading.Event()

    def work() -> None:
        entered = latency.enter()
        while not ends.wait(0.1):
            entered, last = latency.enter(), entered
            latency.leave(last)
        latency.leave(entered)

    thread = threading.Thread(target=work)
    announced = latency.enter()
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()
        latency.leave(announced)


PROGRAM = """
import os, select, sys
import jax, jax.numpy as jnp
assert jax.default_backend() == jax.devices("gpu")[0].platform == jax.devices("cuda")[0].platform
assert os.sched_getscheduler(0) == os.SCHED_OTHER
step = jax.jit(lambda x: jnp.tanh(x) + 1.0)
x = jnp.ones(1000)
for _ in range(20):
    x = step(x)
print(float(x[0]), flush=True)
sys.stdin.readline()
while not select.select([sys.stdin], [], [], 0)[0]:
    x = step(x).block_until_ready()
print(float(x[0]), flush=True)
"""


def test_a_program_shares_the_device_and_top_shows_it(tmp_path):
    latency = Tenant(device="cpu", name="server", latency=True)
    (tmp_path / "train.py").write_text(PROGRAM)
    command = [MISSILE, "run", "--no-idle", "--wrap", PLUGIN, "--memory", "1GiB", "--"]
    with subprocess.Popen(
        [*command, sys.executable, tmp_path / "train.py"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as program:  # fmt: skip
        assert program.stdin is not None
        assert program.stdout is not None
        assert float(program.stdout.readline()) > 1.0
        with at_work(latency):
            print("go on", file=program.stdin, flush=True)
            end = time.monotonic() + 60.0
            shown = {}
            # It waits for the launch that was announced; one of its own may slip in where the
            # arbiter is slow.
            while not shown.get("wanting"):
                assert time.monotonic() < end
                found = json.loads(top("--once", "--json"))["tenants"]
                (shown,) = [tenant for tenant in found if tenant["name"] == "train.py"]
            assert shown["launches"] >= 20
            assert shown["memory_limit_bytes"] == 2**30
            assert 4000 <= shown["memory_bytes"] <= shown["memory_peak_bytes"]
            rows = [line.split() for line in top("--once").splitlines()]
            assert ["server", "latency"] in [row[:2] for row in rows]
            (row,) = [row for row in rows if row[0] == "train.py"]
            assert row[1] in ("best-effort", "*")
        print("end", file=program.stdin, flush=True)
        assert float(program.stdout.readline()) > 1.0
    assert program.returncode == 0


YIELDS = """
import os
import jax, jax.numpy as jnp
x = jax.jit(jnp.tanh)(jnp.ones(1000))
assert os.sched_getscheduler(0) == os.SCHED_IDLE
print(float(jnp.max(x)))
"""


def test_on_a_cpu_best_effort_yields_its_processors_and_launches_beside_latency():
    latency = Tenant(device="cpu", name="server", latency=True)
    with at_work(latency):
        ran = missile("run", "--wrap", PLUGIN, "--", sys.executable, "-c", YIELDS)
    assert ran.returncode == 0, ran.stderr
    assert 0.0 < float(ran.stdout) < 1.0


CHOOSES = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
print(len(jax.devices()), *sys.argv[1:])
"""


def test_a_script_is_run_as_it_is_named_and_told_if_it_chooses_another_platform(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(CHOOSES)
    script.chmod(0o600)
    options = ("--best-effort", "--no-arbiter", "--wrap", PLUGIN)
    ran = missile("run", *options, "train.py", "--steps", 3, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[1:] == ["--steps", "3"]
    assert "sets jax_platforms to 'cpu' itself" in ran.stderr
    assert 'let it set "missile,cpu"' in ran.stderr


def test_top_says_when_nobody_is_there():
    assert top("--once") == "device cpu: no arbiter runs\n"
    document = json.loads(top("--once", "--json", "--device", "gpu0"))
    assert document == {"device": "gpu0", "tenants": None}
    assert CliRunner().invoke(app, ["top", "--json"]).exit_code == 2


def test_an_arbiter_can_be_watched():
    ran = missile("arbiter", "--device", "d", "--idle-exit", "0.1")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--wrap", PLUGIN, "--", "no-such-program"], "there is no program"),
        (["--wrap", PLUGIN, "--", "no-such-program.py"], "there is no program"),
        (["--", "ls"], "no plugin to wrap"),
        (["--wrap", "/nowhere.so", "--", "ls"], "/nowhere.so"),
        (["--wrap", PLUGIN, "--memory", "lots", "--", "ls"], "lots"),
        (["--wrap", PLUGIN, "--idle", "--no-arbiter", "--", "ls"], "--idle needs"),
        (["--wrap", PLUGIN, "--device", "../x", "--", "ls"], "a device is named"),
    ],
)
def test_what_cannot_be_run_is_said(words, message):
    # In a process of its own, which a program that did run would take the place of.
    ran = missile("run", *words)
    assert (ran.returncode in (1, 2), ran.stdout) == (True, "")
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
