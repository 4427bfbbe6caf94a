"""Any unmodified JAX program as a tenant: JAX's plugin `missile`, which wraps another one.

``JAX_PLATFORMS=missile,cpu`` asks for it. It wraps the CUDA plugin that is installed, or the
library that ``MISSILE_PJRT_LIBRARY`` names. JAX imports this module in every process of an
environment, so it imports nothing and does nothing unless it is asked for.
"""

from __future__ import annotations

import logging
import os

PLATFORM = "missile"
# Set where nothing else may happen: names of GPUs are aliases of the plugin, and it is there
# whatever platforms the program chooses.
ALWAYS = "MISSILE_PJRT_ALWAYS"


def initialize() -> None:
    """What JAX calls when it looks for its plugins."""
    # Whoever calls this has imported jax. A program may have changed what its environment says.
    from jax._src import config

    chosen = (config.jax_platforms.value or "").split(",")
    always = os.environ.get(ALWAYS) == "1"
    if PLATFORM in chosen or always:
        from missile_jax.plugin.register import register_or_explain

        register_or_explain(always)
    # Aliases lead here, and so does no name at all: JAX then takes whose priority is the highest.
    here = {PLATFORM, "gpu", "cuda", ""} if always else {PLATFORM}
    asked = always or PLATFORM in os.environ.get("JAX_PLATFORMS", "").split(",")
    if asked and here.isdisjoint(chosen):
        logging.getLogger(__name__).warning(
            "this program sets jax_platforms to %r itself, so it does not run through %s: "
            'let it set "%s,cpu", or leave the line out',
            config.jax_platforms.value,
            PLATFORM,
            PLATFORM,
        )
