"""What importing the package loads, and what it does not."""

import subprocess
import sys

import pytest

import missile_jax

pytestmark = pytest.mark.smoke

# Packages that only the server, its configuration or the zoo needs.
LATER = ["starlette", "uvicorn", "httptools", "orjson", "pydantic", "typer", "tokenizers", "PIL"]


def test_a_runtime_is_imported_without_the_server_s_packages():
    code = f"""
import sys
for name in {LATER}: sys.modules[name] = None
import missile_jax
missile_jax.Runtime()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_everything_that_is_exported_exists():
    for name in missile_jax.__all__:
        assert getattr(missile_jax, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'severing'"):
        _ = missile_jax.severing  # pyright: ignore[reportAttributeAccessIssue]
