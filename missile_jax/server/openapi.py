"""The description of the HTTP routes: `openapi.yaml` beside this file."""

from __future__ import annotations

import functools
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import yaml


@functools.cache
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document of this version of the server."""
    document = yaml.safe_load(
        files("missile_jax.server").joinpath("openapi.yaml").read_text("utf-8")
    )
    document["info"]["version"] = version("missile-jax")
    return document
