"""Every command shows how it is used, and what it shows can be used; shells complete it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from missile_jax.cli import app

MISSILE = Path(sys.executable).with_name("missile")
ROOT = typer.main.get_command(app)


def commands(group=ROOT, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def examples(command) -> list[list[str]]:
    lines = (command.epilog or "").splitlines()
    assert "Examples:" in lines, "the help has no examples"
    shown = [shlex.split(line) for line in lines[lines.index("Examples:") + 1 :]]
    return [words[words.index("missile") + 1 :] for words in shown]


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_every_example_parses(path):
    command = dict(commands())[path]
    shown = examples(command)
    assert shown
    for words in shown:
        assert tuple(words[: len(path)]) == path
        command.make_context(path[-1], words[len(path) :])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell):
    started = {**os.environ, "_MISSILE_COMPLETE": f"source_{shell}"}
    script = subprocess.run([MISSILE], env=started, capture_output=True, text=True, check=True)
    assert f"_MISSILE_COMPLETE=complete_{shell}" in script.stdout
    asked = {
        **os.environ,
        "_MISSILE_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": "missile st",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": "missile st",
        "COMP_CWORD": "1",
    }
    found = subprocess.run([MISSILE], env=asked, capture_output=True, text=True, check=False)
    assert "store" in found.stdout
    assert "serve" not in found.stdout


@pytest.mark.parametrize("path", [(), ("store",)], ids=" ".join)
def test_lists_of_commands_are_not_cut_off(path):
    shown = CliRunner().invoke(app, [*path, "--help"]).stdout
    assert "Commands:" in shown
    assert "..." not in shown.partition("Commands:")[2]
