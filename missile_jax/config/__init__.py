"""The configuration of ``missile serve``: `sections` say what it is, `merge` whence it comes."""

from missile_jax.config.merge import load_config
from missile_jax.config.sections import Config, HttpConfig, ModelConfig, SLOConfig, zoo

__all__ = ["Config", "HttpConfig", "ModelConfig", "SLOConfig", "load_config", "zoo"]
