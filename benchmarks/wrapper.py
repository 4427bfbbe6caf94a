"""What does the PJRT wrapper cost over the plugin that it wraps?

Both are platforms of one process, `bare` and `missile`, and take turns. Calls are made as a C
program makes them, in blocks of thousands; a step of ResNet-50 as a JAX program makes it. The
plugin is a CPU one, named by ``MISSILE_PJRT_LIBRARY``.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import xla_bridge
from rich.console import Console

import missile_jax.models as zoo
from benchmarks.report import Report
from missile_jax.errors import ConfigError
from missile_jax.plugin.library import VARIABLE
from missile_jax.plugin.register import register

BARE, WRAPPED = "bare", "missile"
# Calls in a block: enough that the clock's own cost is a thousandth.
BLOCK = 2000
