"""From a function to a flat jaxpr: calls opened, closed-over arrays hoisted to parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax
from jax.extend import core as jex

from missile_jax.spec import ModelFn, PyTree

# Call-like primitives and the parameter that holds what they call. Opening them loses nothing but
# a name: derivatives are not asked for, and XLA inlines calls anyway.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}

# Evaluates one equation on its input values, or returns None to have it bound as it stands.
Rule = Callable[[jex.JaxprEqn, list[Any]], "list[Any] | None"]


@dataclass(frozen=True, slots=True)
class Traced:
    """A flat program: ``jaxpr`` takes the parameter leaves, the hoisted arrays, then the inputs.

    jaxpr: closed, without constants.
    hoisted: arrays that the function closed over, in the order in which they are taken.
    num_params: parameter leaves, hoisted arrays included.
    out_tree: of the function's result.
    """

    jaxpr: jex.ClosedJaxpr
    hoisted: tuple[jax.Array, ...]
    num_params: int
    out_tree: Any


def trace(fn: ModelFn, params: PyTree, inputs: PyTree) -> Traced:
    """Traces ``fn(params, inputs)``; both may hold arrays or shapes. Errors are the function's."""
    param_leaves, param_tree = jax.tree.flatten(params)
    input_leaves, input_tree = jax.tree.flatten(inputs)
    out_tree = None

    def flat(*leaves: Any) -> list[Any]:
        nonlocal out_tree
        split = len(param_leaves)
        result = fn(
            jax.tree.unflatten(param_tree, leaves[:split]),
            jax.tree.unflatten(input_tree, leaves[split:]),
        )
        outputs, out_tree = jax.tree.flatten(result)
        return outputs

    closed = jax.make_jaxpr(flat)(*param_leaves, *input_leaves)
    split = len(param_leaves)
    hoisted: tuple[Any, ...] = ()
    # Opening may meet arrays that an inner jaxpr closed over, hence more than one round.
    while True:
        first = split + len(hoisted)
        hoisted += tuple(closed.consts)
        closed = jax.make_jaxpr(_hoister(closed, first))(*param_leaves, *hoisted, *input_leaves)
        if not closed.consts:
            break
    opened = jax.make_jaxpr(_opener(closed))(*param_leaves, *hoisted, *input_leaves)
    if opened.consts:
        raise NotImplementedError("an array is still closed over after opening all calls")
    return Traced(opened, hoisted, split + len(hoisted), out_tree)


def _hoister(closed: jex.ClosedJaxpr, first: int) -> Callable[..., list[Any]]:
    """`closed` with its constants as arguments, from argument `first` on, and calls opened."""
    count = len(closed.consts)

    def run(*leaves: Any) -> list[Any]:
        args = (*leaves[:first], *leaves[first + count :])
        return interpret(closed.jaxpr, leaves[first : first + count], args, leave)

    return run


def _opener(closed: jex.ClosedJaxpr) -> Callable[..., list[Any]]:
    """`closed` with calls opened, and every result made by an equation of its own."""

    def run(*leaves: Any) -> list[Any]:
        results = interpret(closed.jaxpr, (), leaves, leave)
        passed = {id(leaf) for leaf in leaves}
        owned = []
        for atom, value in zip(closed.jaxpr.outvars, results, strict=True):
            if isinstance(atom, jex.Literal) or id(value) in passed:
                value = lax.optimization_barrier(value)
            passed.add(id(value))
            owned.append(value)
        return owned

    return run


def leave(eqn: jex.JaxprEqn, operands: list[Any]) -> None:
    """The rule that changes nothing."""
    return None


def rewrite(jaxpr: jex.ClosedJaxpr, rule: Rule) -> jex.ClosedJaxpr:
    """The same program with every equation for which `rule` has an answer replaced by it."""

    def run(*args: Any) -> list[Any]:
        return interpret(jaxpr.jaxpr, jaxpr.consts, args, rule)

    return jax.make_jaxpr(run)(*jaxpr.in_avals)


def interpret(
    jaxpr: jex.Jaxpr, consts: Sequence[Any], args: Sequence[Any], rule: Rule
) -> list[Any]:
    """Runs `jaxpr` equation by equation, call-like ones opened."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        results = rule(eqn, operands)
        if results is None:
            inner = called(eqn)
            if inner is not None:
                results = interpret(inner.jaxpr, inner.consts, operands, rule)
            else:
                results = bind_eqn(eqn, operands)
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def bind_eqn(eqn: jex.JaxprEqn, operands: Sequence[Any], **changed: Any) -> list[Any]:
    """Applies the primitive of `eqn` to `operands`, with `changed` parameters.

    Through a jaxpr of this one equation, since how a primitive takes its parameters differs between
    versions of JAX.
    """
    # Variables of its own: an operand may be another value than the literal it stands for, or than
    # a further operand of the same name.
    own = [
        (a, None) if isinstance(a, jex.Literal) and x is a.val else (jex.Var(a.aval), x)
        for a, x in zip(eqn.invars, operands, strict=True)
    ]
    eqn = eqn.replace(invars=[a for a, _ in own], params={**eqn.params, **changed})
    free = {v: x for v, x in own if not isinstance(v, jex.Literal)}
    return jex.jaxpr_as_fun(flat_jaxpr([eqn], list(free), eqn.outvars))(*free.values())


def flat_jaxpr(
    eqns: Sequence[jex.JaxprEqn], reads: Sequence[Any], writes: Sequence[Any]
) -> jex.ClosedJaxpr:
    """A closed jaxpr of `eqns` that takes `reads` and gives `writes`."""
    # jax warns where the debug information is missing.
    unnamed = jex.DebugInfo("segment", "missile_jax", ("",) * len(reads), ("",) * len(writes))
    jaxpr = jex.Jaxpr((), list(reads), list(writes), list(eqns), debug_info=unnamed)
    return jex.ClosedJaxpr(jaxpr, ())


def shape_of(atom: Any) -> tuple[int, ...]:
    """The shape of a variable or literal."""
    return atom.aval.shape


def called(eqn: jex.JaxprEqn) -> jex.ClosedJaxpr | None:
    """What a call-like equation calls; None for any other equation."""
    key = _CALLS.get(eqn.primitive.name)
    if key is None or key not in eqn.params:
        return None
    inner = eqn.params[key]
    return inner if isinstance(inner, jex.ClosedJaxpr) else jex.ClosedJaxpr(inner, ())
