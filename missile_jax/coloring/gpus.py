"""GPUs by their public data sheets, for simulations. Fixed beforehand; no figure was fitted."""

from __future__ import annotations

from dataclasses import dataclass

from missile_jax.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Gpu:
    """One model of GPU.

    bytes_per_s: of its memory, at its peak. flops_per_s: float32 without tensor cores, at its peak.
    channels: of its memory; see `source`. source: where the figures are from.
    """

    name: str
    bytes_per_s: float
    flops_per_s: float
    channels: int
    source: str

    @property
    def channel_bytes_per_s(self) -> float:
        return self.bytes_per_s / self.channels


_MISSILE = "channels: arXiv:2407.13996"
_ALL = (
    Gpu("P40", 346e9, 12e12, 12, f"NVIDIA Tesla P40 data sheet; {_MISSILE}"),
    Gpu("V100", 900e9, 15.7e12, 32, f"NVIDIA Tesla V100 SXM2 data sheet; {_MISSILE}"),
    Gpu("A2000", 288e9, 8.0e12, 6, f"NVIDIA RTX A2000 data sheet; {_MISSILE}"),
    Gpu("A5500", 768e9, 34.1e12, 12, f"NVIDIA RTX A5500 data sheet; {_MISSILE}"),
    Gpu("H100", 3350e9, 67e12, 80,
        "NVIDIA H100 SXM5 data sheet; channels: five HBM3 stacks of sixteen (JESD238)"),
)  # fmt: skip
GPUS = {gpu.name: gpu for gpu in _ALL}


def gpu_named(name: str) -> Gpu:
    """Raises ConfigError for one that is not in the table."""
    if name not in GPUS:
        raise ConfigError(f"no data sheet of GPU {name!r}; there are: {', '.join(GPUS)}")
    return GPUS[name]
