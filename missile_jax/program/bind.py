"""Any of the accepted model forms as one function ``fn(params, inputs)``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from missile_jax.errors import ModelLoadError
from missile_jax.program.checkpoint import check_fit, read
from missile_jax.spec import Model, ModelFn, PyTree


def bind(spec: Model) -> tuple[ModelFn, PyTree]:
    """The pure function of `spec` and its parameters.

    Returns ``(fn, params)`` with ``fn(params, inputs) -> outputs``. For Flax modules a dict of
    inputs becomes keyword arguments and a tuple positional arguments.

    Raises:
        ModelLoadError: `spec.model` is none of the accepted forms, or `params` do not go with it.
        CheckpointError: a checkpoint cannot be read, or holds another tree, shape or dtype than
            its Flax module has.
    """
    model, params = spec.model, spec.params
    if spec.checkpoint is not None:
        params = read(spec.name, Path(spec.checkpoint))
    if isinstance(model, nn.Module):
        if params is None:
            raise ModelLoadError(
                f"model {spec.name!r}: a linen module needs params= or checkpoint=, "
                "the variables of module.init"
            )
        if spec.checkpoint is not None:
            _check_linen(spec, model, params)
        try:
            return _apply_linen(model), params
        except TypeError:
            # Its fields can not be hashed, so nothing tells that another one is equal.
            return _apply_linen.__wrapped__(model), params
    if isinstance(model, nnx.Module):
        if spec.params is not None:
            raise ModelLoadError(
                f"model {spec.name!r}: an nnx module carries its own parameters; leave params out"
            )
        graph, state = nnx.split(model)
        if spec.checkpoint is not None:
            own, needed = (nnx.to_pure_dict(nnx.state(model, kind)) for kind in (..., nnx.Param))
            check_fit(spec.name, Path(spec.checkpoint), params, own, needed)
            nnx.replace_by_pure_dict(state, params)

        def apply_nnx(values: PyTree, inputs: PyTree) -> PyTree:
            return _spread(nnx.merge(graph, values), inputs)

        return apply_nnx, state
    if isinstance(model, type):
        raise ModelLoadError(
            f"model {spec.name!r}: got the class {model.__name__}; pass an instance of it"
        )
    if callable(model):
        return model, params
    raise ModelLoadError(
        f"model {spec.name!r}: got {type(model).__name__}; "
        "allowed: a linen module, an nnx module, or a function fn(params, inputs)"
    )


def _check_linen(spec: Model, model: nn.Module, variables: PyTree) -> None:
    """Compares what was read with what the module would make of the example, in `params` and the
    collections that both have.

    A module that cannot be initialised from its example alone is not looked at: what does not fit
    then fails in Flax.
    """

    def init(inputs: PyTree) -> PyTree:
        return _spread(lambda *a, **k: model.init(jax.random.key(0), *a, **k), inputs)

    try:
        own = dict(nn.meta.unbox(jax.eval_shape(init, spec.example)))
    except Exception:  # noqa: BLE001 - it may want other random keys or arguments, and raise anything
        return
    read = variables if isinstance(variables, dict) else {}
    both = {"params", *read} & own.keys()
    found = {name: read[name] for name in both & read.keys()}
    wanted = {name: own[name] for name in both}
    check_fit(spec.name, Path(str(spec.checkpoint)), found, wanted)


@lru_cache(maxsize=64)
def _apply_linen(model: nn.Module) -> ModelFn:
    """One function for equal modules, so that JAX traces a thousand fine-tunes once."""

    @jax.jit
    def apply_linen(variables: PyTree, inputs: PyTree) -> PyTree:
        return _spread(lambda *a, **k: model.apply(variables, *a, **k), inputs)

    return apply_linen


def _spread(call: Any, inputs: PyTree) -> PyTree:
    if isinstance(inputs, dict):
        return call(**inputs)
    if isinstance(inputs, tuple):
        return call(*inputs)
    return call(inputs)


def parameter_leaves(name: str, params: PyTree) -> tuple[list[Any], Any]:
    """Flattened `params` and their tree. Raises ModelLoadError for a leaf that is no array."""
    leaves, tree = jax.tree.flatten(params)
    for leaf in leaves:
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
            raise ModelLoadError(
                f"model {name!r}: params hold a {type(leaf).__name__} ({leaf!r:.60}); "
                "allowed: arrays. Close over static values instead"
            )
    return leaves, tree
