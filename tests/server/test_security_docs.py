"""docs/security.md names every limit with its default."""

import re
from pathlib import Path

from missile_jax.options import ServerOptions
from missile_jax.server.auth import MIN_TOKEN_CHARS
from missile_jax.server.tensors import MAX_RANK

TEXT = (Path(__file__).parents[2] / "docs/security.md").read_text("utf-8")
SECTIONS = ("http", "grpc", "limits", "shared_memory")


def test_every_limit_is_there_with_its_default():
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| ([\d.]+) \|", TEXT, re.MULTILINE)
    described = {(section, name): float(value) for section, name, value in rows}
    options = ServerOptions()
    limits = {
        (section, name): float(value)
        for section in SECTIONS
        for name, value in getattr(options, section)
        if name.startswith("max_") or name.endswith("_timeout_s")
    }
    assert described == limits


def test_fixed_limits_are_as_it_says():
    assert f"a tensor has at most {MAX_RANK} axes" in TEXT
    assert f"fewer than {MIN_TOKEN_CHARS} characters" in TEXT
