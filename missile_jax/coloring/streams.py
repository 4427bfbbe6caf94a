"""A compiled program as a stream on some GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from missile_jax.coloring.gpus import Gpu
from missile_jax.coloring.worth import Phase, Stream
from missile_jax.program.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What kernels reach of a data sheet's peaks."""

    memory: float = 1.0
    compute: float = 0.5


def stream_of(
    name: str,
    traffic: Sequence[Traffic],
    gpu: Gpu,
    reached: Efficiency = Efficiency(),
    *,
    any_product: bool = False,
) -> Stream:
    """One inference on `gpu`. Coloured are reads of parameters by memory-bound products alone, or
    with `any_product` by all: activations and temporaries are the compiler's, and convolutions with
    a window are its libraries'."""
    phases = (_phase(one, gpu, reached, any_product) for one in traffic if one.bytes)
    return Stream(name, tuple(phases))


def _phase(traffic: Traffic, gpu: Gpu, reached: Efficiency, any_product: bool) -> Phase:
    memory_s = traffic.bytes / (reached.memory * gpu.bytes_per_s)
    compute_s = traffic.flops / (reached.compute * gpu.flops_per_s)
    alone_s = max(memory_s, compute_s)
    coloured = sum(
        read.bytes
        for read in traffic.tabled
        if any_product or _memory_bound(read.flops_per_byte, gpu, reached)
    )
    return Phase(alone_s, memory_s / alone_s, coloured / traffic.bytes)


def _memory_bound(flops_per_byte: float, gpu: Gpu, reached: Efficiency) -> bool:
    ridge = reached.compute * gpu.flops_per_s / (reached.memory * gpu.bytes_per_s)
    return flops_per_byte < ridge


def coloured_share(
    traffic: Sequence[Traffic], gpu: Gpu, reached: Efficiency = Efficiency()
) -> float:
    """Of all bytes that a model moves on `gpu`, the share that would be coloured."""
    phases = stream_of("", traffic, gpu, reached).phases
    moved = [one.bytes for one in traffic if one.bytes]
    coloured = sum(phase.coloured * b for phase, b in zip(phases, moved, strict=True))
    return coloured / sum(moved)
