"""`missile store`, run as people run it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from missile_jax import Model, Runtime
from missile_jax.cli import app
from missile_jax.program import entry, orbax_tree

MISSILE = Path(sys.executable).with_name("missile")
WEIGHTS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(3, np.float32)}


@pytest.fixture
def missile(tmp_path):
    environment = {**os.environ, "MISSILE_STORE": str(tmp_path / "store"), "COLUMNS": "100"}

    def missile(*arguments) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [MISSILE, "store", *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return missile


@pytest.fixture
def weights(tmp_path) -> Path:
    save_file(WEIGHTS, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def test_help_shows_how_it_is_used():
    assert "verify" in CliRunner().invoke(app, ["store", "--help"]).stdout
    shown = CliRunner().invoke(app, ["store", "add", "--help"]).stdout
    assert "  missile store add bert checkpoints/bert" in shown


def test_an_entry_is_added_listed_verified_served_and_removed(missile, weights, tmp_path):
    orbax_tree.save(tmp_path / "ckpt", WEIGHTS)
    added = missile("add", "net", weights)
    assert added.stdout == f"{tmp_path / 'store' / 'net'}: 2 leaves, 36 bytes\n", added.stderr
    assert missile("add", "other", tmp_path / "ckpt").returncode == 0
    header, _, first, second = missile("ls").stdout.splitlines()
    assert header.split() == ["name", "leaves", "bytes", "written"]
    assert first.split()[:3] == ["net", "2", "36"]
    assert second.split()[:3] == ["other", "2", "36"]
    assert missile("verify").stdout == "net: intact\nother: intact\n"

    x = np.ones((1, 2), np.float32)
    with Runtime() as runtime:
        runtime.load(
            Model(
                "net",
                lambda params, x: x @ params["w"] + params["b"][None],
                checkpoint=tmp_path / "store" / "net",
                example=x,
            )
        )
        np.testing.assert_array_equal(runtime.infer("net", x), x @ WEIGHTS["w"])

    assert missile("rm", "net").returncode == 0
    assert [line.split()[0] for line in missile("ls").stdout.splitlines()[2:]] == ["other"]


def test_verify_names_what_is_damaged(missile, weights, tmp_path):
    for name in ("good", "bad"):
        missile("add", name, weights)
    path = tmp_path / "store" / "bad" / "_METADATA"
    path.write_bytes(path.read_bytes()[:-1])
    done = missile("verify")
    assert (done.returncode, done.stdout) == (
        1,
        "bad: file _METADATA has changed\ngood: intact\n",
    )
    assert missile("verify", "good").returncode == 0
    (tmp_path / "store" / "bad" / entry.MANIFEST).write_text("{}")
    assert ["bad", "-", "-", "damaged"] in [
        line.split() for line in missile("ls").stdout.splitlines()
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("rm", "net"), 1, "no entry named 'net' in {store}; stored: none"),
        (("verify", "net"), 1, "no entry named 'net' in {store}; stored: none"),
        (("add", "net", "nothing"), 1, "model 'net': there is no checkpoint at nothing"),
        (("add", "../net", "{weights}"), 2, "model name '../net' is not allowed; use 1 to 128"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    missile, weights, tmp_path, arguments, code, message
):
    known = {"store": tmp_path / "store", "weights": weights}
    done = missile(*(argument.format(**known) for argument in arguments))
    assert done.returncode == code
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(message.format(**known))
