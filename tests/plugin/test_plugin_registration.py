"""How JAX comes to know the plugin, and what it says where there is nothing to wrap."""

import struct
from pathlib import Path

import pytest
from plugins import LIBRARIES, environment, run_json, run_python

from missile_jax.errors import PluginError
from missile_jax.plugin.library import find_library

SHOW = """
import json
import jax
print(json.dumps([jax.default_backend(), len(jax.devices())]))
"""


def elf(path: Path, machine: int) -> Path:
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<H", header, 18, machine)
    path.write_bytes(header)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"#!/bin/sh\n", "is no shared library"),
        (b"#!/bin/sh\n" * 9, "is no shared library"),
    ],
)
def test_a_file_that_is_no_library_is_refused(content, message, tmp_path):
    path = tmp_path / "plugin.so"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PluginError, match=message):
        find_library({"MISSILE_PJRT_LIBRARY": str(path)})


def test_a_library_of_another_machine_is_refused(tmp_path):
    path = elf(tmp_path / "plugin.so", 243)
    with pytest.raises(PluginError, match="is for machine 243, and this is"):
        find_library({"MISSILE_PJRT_LIBRARY": str(path)})


def test_the_cuda_plugin_is_found_by_itself(monkeypatch):
    folder = LIBRARIES[112].parents[2]
    monkeypatch.syspath_prepend(folder)
    found = find_library({})
    assert found.path == LIBRARIES[112]
    assert found.cuda


def test_it_does_nothing_unless_it_is_asked_for():
    code = """
import json, sys
import jax
jax.devices()
print(json.dumps([m for m in sys.modules if m.startswith("missile_jax")]))
"""
    env = environment(115, wrapped=True) | {"JAX_PLATFORMS": "cpu"}
    assert run_json(code, env) == ["missile_jax", "missile_jax.plugin"]


def test_nothing_to_wrap_is_the_platform_s_error():
    done = run_python(SHOW, environment(None, wrapped=True))
    assert done.returncode != 0
    assert "Unable to initialize backend 'missile': no plugin to wrap" in done.stderr


def test_a_wrong_option_is_named_with_what_is_allowed():
    done = run_python(SHOW, environment(115, wrapped=True, memory="much"))
    assert done.returncode != 0
    assert "option MEMORY is 'much', and must be a size such as 512MiB" in done.stderr


def test_a_client_that_cannot_be_made_fails_with_the_plugin_s_own_error():
    errors = []
    for wrapped in (False, True):
        done = run_python(SHOW, environment(112, wrapped))
        assert done.returncode != 0
        errors.append(done.stderr.splitlines()[-1].partition(": ")[2].partition(": ")[2])
    assert errors[0] == errors[1]
    assert "No visible GPU devices" in errors[1]


def test_a_second_registration_is_refused_and_two_tenants_are_not():
    code = """
import json
import jax
from missile_jax.plugin.register import register
from missile_jax.errors import PluginError
register("second", {"missile_tenant": "two", "missile_memory": "1MiB", "missile_class": "latency"})
jax.config.update("jax_platforms", "missile,second,cpu")
first, second = jax.devices("missile")[0], jax.devices("second")[0]
try:
    register("second")
except PluginError as error:
    message = str(error)
import numpy as np
big = np.zeros(1 << 20, np.float32)
kept = jax.device_put(big, first)
try:
    jax.device_put(big, second)
except Exception as error:
    refused = str(error)
x = jax.jit(lambda a: a + 1)(jax.device_put(np.float32(1), second))
print(json.dumps([message, refused, float(x), first.memory_stats()["bytes_in_use"]]))
"""
    message, refused, value, used = run_json(code, environment(115, wrapped=True))
    assert "'second' is registered already" in message
    assert "tenant 'two' asks for 4194304 bytes" in refused
    assert (value, used) == (2.0, 4 << 20)


UPDATES = 'import jax; jax.config.update("jax_platforms", {!r})\n'


@pytest.mark.parametrize(
    ("chooses", "options"),
    [
        (UPDATES.format("cpu"), {}),
        (UPDATES.format("cpu"), {"always": 1}),
        ('import os; os.environ["JAX_PLATFORMS"] = "cpu"\n', {"always": 1}),
    ],
)
def test_a_program_that_chooses_platforms_itself_is_told_which_line_to_change(chooses, options):
    done = run_python(chooses + SHOW, environment(115, wrapped=True, **options))
    assert done.returncode == 0, done.stderr
    assert "sets jax_platforms to 'cpu' itself" in done.stderr
    assert 'let it set "missile,cpu"' in done.stderr


@pytest.mark.parametrize("name", ["cuda", None])
def test_names_of_gpus_are_aliases_where_nothing_else_may_happen(name):
    code = (
        UPDATES.format(name)
        + """
import json
devices = [*jax.devices("gpu"), *jax.devices("cuda"), *jax.devices()]
assert {d.client for d in devices} == {jax.devices("missile")[0].client}
print(json.dumps([jax.default_backend(), len(devices)]))
"""
    )
    done = run_python(code, environment(115, wrapped=True, always=1))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('["cpu", ')
    assert "jax_platforms" not in done.stderr
