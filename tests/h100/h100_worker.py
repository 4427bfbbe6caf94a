"""What runs in the process that has the CUDA plugin. Only plain values go back."""

import os
import re
import sys
from dataclasses import dataclass

import numpy as np


def use_plugin(folder: str) -> None:
    """First thing in the process: makes the plugin in `folder` known to JAX; only CPUs start."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    sys.path.append(folder)


@dataclass(frozen=True)
class Compiled:
    """One executable.

    arguments: sizes of its parameters and inputs in bytes, as declared.
    argument_bytes, output_bytes, temp_bytes: as the compiler says.
    params: which parameter leaves it takes.
    kernels: which of NVIDIA's libraries and Triton it calls.
    transposes: how many it does at each launch.
    """

    arguments: tuple[int, ...]
    argument_bytes: int
    output_bytes: int
    temp_bytes: int
    params: tuple[int, ...]
    kernels: frozenset[str]
    transposes: int


@dataclass(frozen=True)
class CompiledPlan:
    """A model compiled for an H100, whole and in segments."""

    whole: Compiled
    segments: tuple[Compiled, ...]
    platform: str
    temp_bytes: int


def compile_model(name: str, segments: int, as_wanted: bool = True) -> CompiledPlan:
    """The zoo's model with random weights, cut to about `segments` segments.

    as_wanted: keep parameters with their axes as the compiler wants them.
    """
    import jax

    from missile_jax import models
    from missile_jax.program.bind import bind, parameter_leaves
    from missile_jax.program.build import Builder
    from missile_jax.program.compile import wanted_orders
    from missile_jax.program.costs import EstimatedCosts
    from missile_jax.program.form import Form
    from missile_jax.program.target import target_device
    from missile_jax.program.trace import trace
    from missile_jax.spec import Model

    device = target_device("h100")
    net = models.load(name, random_weights=True)
    fn, params = bind(Model(name, net.module, net.variables, example=net.example))
    leaves, tree = parameter_leaves(name, params)
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
    traced = trace(fn, jax.tree.unflatten(tree, shapes), net.example)
    costs = EstimatedCosts()
    total_ns = sum(costs.cost_ns(eqn) for eqn in traced.jaxpr.eqns)
    builder = Builder(device, costs, total_ns // segments, profile=False)
    inputs = [np.asarray(x) for x in jax.tree.leaves(net.example)]
    orders = [tuple(range(x.ndim)) for x in leaves]
    if as_wanted:
        orders = wanted_orders(traced.jaxpr, len(leaves), device)
    form = Form.of(traced, leaves, orders)
    kept = [*form.arrays(leaves), *traced.hoisted]
    plan = builder.build(form.taken_by(traced), kept, inputs, segmented=True)

    def figures(segment):
        compiled = segment.executable.call
        memory = compiled.memory_analysis()
        text = compiled.as_text()
        return Compiled(
            tuple(a.size * a.dtype.itemsize for a in compiled.in_avals[0]),
            memory.argument_size_in_bytes,
            memory.output_size_in_bytes,
            segment.executable.temp_bytes,
            segment.params,
            frozenset(re.findall("__cudnn|__cublas|__triton", text)),
            len(re.findall(r"= \S+ transpose\(", text)),
        )

    return CompiledPlan(
        figures(plan.whole),
        tuple(figures(s) for s in plan.segments),
        device.platform,
        plan.temp_bytes,
    )


def describe_target(name: str) -> tuple[tuple[str, int], list[str]]:
    """Platform and number of the target, and the platforms of the devices that are here."""
    import jax

    from missile_jax.program.target import target_device

    device = target_device(name)
    assert target_device(name) is device
    return (device.platform, device.id), sorted({d.platform for d in jax.devices()})
