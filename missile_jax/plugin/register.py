"""Registers the plugin with JAX.

JAX has no public way to do what is done here: `jax._src.xla_bridge` is what its own plugins use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jax._src import xla_bridge
from jaxlib import xla_client

from missile_jax.errors import PluginError
from missile_jax.plugin import PLATFORM
from missile_jax.plugin.handlers import share_host_handlers
from missile_jax.plugin.library import VARIABLE, Library, find_library

# Before JAX's own CUDA plugin, whose priority is 500.
_PRIORITY = 600


def register(name: str = PLATFORM, options: Mapping[str, str] | None = None) -> None:
    """Makes `name` a platform of JAX, backed by the plugin that is wrapped.

    options: a tenant's, such as ``{"missile_class": "latency"}``; they win over ``MISSILE_PJRT_*``
    in the environment. Two names with different options are two tenants of one process.

    Raises PluginError if there is nothing to wrap, or `name` is taken.
    """
    # The table of backends is JAX's own; nothing public tells what is registered.
    if name in xla_bridge._backend_factories:
        raise PluginError(f"platform {name!r} is registered already; a process has it once")
    library = find_library()
    os.environ[VARIABLE] = str(library.path)
    own = resources.files("missile_jax") / "libmissile_pjrt.so"
    given = dict(options or {})
    xla_bridge._nonexperimental_plugins.add(name)
    c_api = xla_bridge.register_plugin(
        name,
        priority=_PRIORITY,
        library_path=str(own),
        options=lambda: client_options(library) | given,
    )
    if library.cuda:
        # JAX gives the handlers to the library by itself: it initialises every plugin it finds.
        _alias("gpu", name)
    else:
        share_host_handlers(c_api)


def register_or_explain(always: bool) -> None:
    """`register` for JAX's search for plugins, which logs errors and goes on.

    So an error becomes a platform that fails with it when it is used.

    always: programs that ask for a GPU by any name get this platform.
    """
    if PLATFORM in xla_bridge._backend_factories:
        return  # By a call of `register`.
    try:
        register()
    except PluginError as error:
        _register_failure(error)
    if always:
        for alias in ("gpu", "cuda"):
            xla_bridge._alias_to_platforms[alias] = [PLATFORM]


def _register_failure(error: PluginError) -> None:
    def fail() -> None:
        raise error

    xla_bridge.register_backend_factory(PLATFORM, fail, priority=_PRIORITY, fail_quietly=False)


def _alias(alias: str, name: str) -> None:
    platforms = xla_bridge._alias_to_platforms.setdefault(alias, [])
    if name not in platforms:
        platforms.append(name)


def client_options(library: Library) -> dict[str, Any]:
    """What JAX would create the wrapped plugin's client with."""
    if not library.cuda:
        return {}
    options = dict(xla_client.generate_pjrt_gpu_plugin_options())
    return options | xla_bridge._options_from_jax_configs("cuda")
