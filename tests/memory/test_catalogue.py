"""memory.catalogue: entries by name, replaced in one step, whoever is killed meanwhile."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from missile_jax.errors import CheckpointError, ConfigError, ModelNotFoundError
from missile_jax.memory.catalogue import Catalogue
from missile_jax.program import checkpoint, entry

# Stops for good once the files are written, before the link is replaced.
KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from missile_jax.memory.catalogue import Catalogue

Catalogue._publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
Catalogue(Path(sys.argv[1])).add("net", {"x": np.full(4, 2.0)})
"""


@pytest.fixture
def catalogue(tmp_path):
    return Catalogue(tmp_path / "store")


def versions(catalogue):
    return sorted(path.name for path in (catalogue.root / ".versions").iterdir() if path.is_dir())


def value(catalogue, name):
    return checkpoint.read(name, catalogue.path(name))["x"][0]


def test_entries_are_found_by_name_and_go(catalogue):
    catalogue.add("b", {"x": np.ones(4)})
    catalogue.add("a", {"x": np.zeros(4)})
    assert catalogue.names() == ["a", "b"]
    assert catalogue.manifest("b").name == "b"
    assert (value(catalogue, "a"), value(catalogue, "b")) == (0, 1)
    catalogue.remove("a")
    assert catalogue.names() == ["b"]
    assert len(versions(catalogue)) == 1
    with pytest.raises(ModelNotFoundError, match=r"no entry named 'a' in .*; stored: b"):
        catalogue.path("a")


def test_replacing_leaves_one_version(catalogue):
    for k in range(3):
        catalogue.add("net", {"x": np.full(4, float(k))})
        assert value(catalogue, "net") == k
        assert len(versions(catalogue)) == 1


def test_a_failed_write_leaves_the_old_entry_and_nothing_else(catalogue):
    catalogue.add("net", {"x": np.ones(4)})
    with pytest.raises(CheckpointError, match=r"'net' cannot be stored in .*zero size"):
        catalogue.add("net", {"x": np.ones(0)})
    assert value(catalogue, "net") == 1
    assert len(versions(catalogue)) == 1


def test_a_killed_writer_leaves_the_old_entry_and_its_leftovers_go(catalogue):
    catalogue.add("net", {"x": np.ones(4)})
    done = subprocess.run([sys.executable, "-c", KILLED, catalogue.root], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(versions(catalogue)) == 2
    again = Catalogue(catalogue.root)
    assert len(versions(again)) == 1
    assert value(again, "net") == 1
    assert again.verify("net") == []


def test_the_folder_of_a_living_writer_is_left_alone(catalogue, monkeypatch):
    write = entry.write

    def somebody_else_comes(folder, name, tree):
        Catalogue(catalogue.root)
        assert folder.parent.exists()
        return write(folder, name, tree)

    monkeypatch.setattr(entry, "write", somebody_else_comes)
    catalogue.add("net", {"x": np.ones(4)})
    assert value(catalogue, "net") == 1


@pytest.mark.parametrize("name", ["../net", ".versions", "", "a/b"])
def test_names_that_would_leave_the_folder_are_refused(catalogue, name):
    with pytest.raises(ConfigError, match="is not allowed"):
        catalogue.add(name, {"x": np.ones(4)})
    assert os.listdir(catalogue.root) == [".versions"]


def test_a_store_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(ConfigError, match=r"the store .* cannot be used"):
        Catalogue(tmp_path / "store")
