"""The timing oracle of a real GPU."""

from __future__ import annotations

from importlib.resources import files

from missile_jax._native import CudaDevice, CudaProber


def cuda_oracle(
    ordinal: int = 0,
    *,
    pages: int = 64,
    multiprocessor: int = 0,
    repeats: int = 3,
    driver: str = "",
) -> CudaProber:
    """Probes `pages` pages of a GPU's memory. Nothing else may use the GPU meanwhile.

    multiprocessor: the one that measures. repeats: a timing is the least of so many. driver: path
    of CUDA's library; else MISSILE_CUDA_DRIVER is, or libcuda.so.1.
    Raises RuntimeError without a driver, ValueError without such a device.
    """
    ptx = (files("missile_jax") / "data" / "channel_probe.ptx").read_text()
    return CudaProber(
        CudaDevice(ordinal, driver),
        ptx,
        pages=pages,
        multiprocessor=multiprocessor,
        repeats=repeats,
    )
