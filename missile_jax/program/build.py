"""Builds plans: trace, split, cut, compile, profile, check against the whole."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from missile_jax.program.compile import compile_flat
from missile_jax.program.costs import Costs, unsteady
from missile_jax.program.cut import Place, choose, places
from missile_jax.program.plan import Plan, Segment
from missile_jax.program.signature import Signature
from missile_jax.program.split import splitter
from missile_jax.program.trace import Rule, Traced, bind_eqn, flat_jaxpr, rewrite
from missile_jax.spec import JaxDevice

# A segmented plan further than this from the whole is not used.
TOLERANCE = 1e-5
# A segment whose time lies within these of what was expected keeps the costs it was cut by.
_APART = (0.6, 1.15)
_ROUNDS = 4
_TIMED_RUNS = 3
_SPLIT_PASSES = 3
# What a further segment costs, against what it hides of a copy: from here on a copy is worth two.
SEGMENT_NS = 250_000


_plans: weakref.WeakValueDictionary[str, Plan] = weakref.WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class Builder:
    """Compiles plans for one device.

    device: a device of this process, or one of an ahead-of-time topology.
    costs: what equations cost there.
    quantum_ns: the length that segments should not exceed.
    profile: run and time the plan, and check it against the whole; needs a device that is here.
    copy_bytes_per_s: of the link by which parameters come while segments run, of the time that its
        copies leave to these; inf if they stay, or leave none.
    """

    device: JaxDevice
    costs: Costs
    quantum_ns: int
    profile: bool = True
    copy_bytes_per_s: float = math.inf

    def build(
        self,
        traced: Traced,
        leaves: Sequence[Any],
        inputs: Sequence[Any],
        *,
        segmented: bool,
    ) -> Plan:
        """A plan of `traced` on parameter `leaves`, profiled on `inputs` if so asked.

        Models of one architecture share the plan's segments, and the times measured for the first;
        each is checked with its own values.

        Raises whatever compilation or the model itself raises.
        """
        signature = Signature().add(traced.jaxpr, traced.num_params, str(traced.out_tree))
        signature.add(self.device, self.quantum_ns, self.copy_bytes_per_s)
        key = signature.add(self.profile, segmented).digest()
        plan = _plans.get(key)
        if plan is None:
            plan = replace(
                self._build(traced, leaves, inputs, segmented), keep=tuple(signature.keep)
            )
            _plans[key] = plan
        elif self.profile:
            # What only these parameters do shows before the first request, not at it.
            jax.block_until_ready(plan.run(leaves, inputs, whole=True))
        if not self.profile or len(plan.segments) == 1:
            return plan
        # Times are the first model's, but how far segments are from the whole depends on values.
        return replace(_checked(plan, leaves, inputs), keep=(plan,))

    def _build(
        self, traced: Traced, leaves: Sequence[Any], inputs: Sequence[Any], segmented: bool
    ) -> Plan:
        program = _Program.of(traced)
        whole = program.segment(program.eqns, program.out_vars, (), self.device)
        not_cut = "" if segmented else "not asked for"
        if segmented and traced.jaxpr.effects:
            not_cut = "it has side effects, whose order segments would not keep"
        if self.profile:
            duration = _time_run(program.plan(whole, (whole,), ""), leaves, inputs)[0]
            whole = replace(whole, duration_ns=duration)
        short = self.profile and whole.duration_ns <= self.quantum_ns
        if not not_cut and short and self._hiding(whole.duration_ns, leaves) < 2:
            not_cut = "it is shorter than a quantum"
        if not_cut:
            return program.plan(whole, (whole,), not_cut)
        return self._segment(program, whole, leaves, inputs)

    def _segment(
        self, program: _Program, whole: Segment, leaves: Sequence[Any], inputs: Sequence[Any]
    ) -> Plan:
        cut = self._split(program)
        whole = replace(whole, writes=tuple(cut.slots[v] for v in cut.out_vars))
        costs = [self.costs.cost_ns(eqn) for eqn in cut.eqns]
        all_places = places(cut.eqns, cut.in_vars, cut.out_vars)
        plan = program.plan(whole, (whole,), "")
        for _ in range(_ROUNDS):
            length_ns = self._length_ns(whole, sum(costs), leaves)
            cuts = choose(all_places, costs, length_ns)
            plan = cut.plan(whole, self._compile(cut, all_places, cuts), "")
            if not self.profile:
                return plan
            durations = _time_run(plan, leaves, inputs)
            _correct(costs, [0, *cuts, len(costs)], durations)
            if choose(all_places, costs, self._length_ns(whole, sum(costs), leaves)) == cuts:
                break
        return _timed(plan, leaves, inputs)

    def _length_ns(self, whole: Segment, costs_ns: int, leaves: Sequence[Any]) -> int:
        """How long segments should be by the costs: a quantum, or less where that hides a copy."""
        if not self.profile:
            return self.quantum_ns
        hiding = self._hiding(whole.duration_ns, leaves)
        if hiding < 2:
            return self.quantum_ns
        # Costs of equations may add up to more than all of them take.
        quanta = whole.duration_ns / self.quantum_ns
        return math.ceil(costs_ns / max(hiding, quanta))

    def _hiding(self, compute_ns: int, leaves: Sequence[Any]) -> float:
        """How many segments it takes to hide the copy of the parameters behind compute.

        In n segments all but an n-th of the shorter of the two is hidden, and each costs a launch:
        so n grows with the root of what there is to hide.
        """
        copy_ns = sum(leaf.nbytes for leaf in leaves) / self.copy_bytes_per_s * 1e9
        return math.sqrt(min(copy_ns, compute_ns) / SEGMENT_NS)

    def _split(self, program: _Program) -> _Program:
        """Equations over the quantum are sliced, those of opened loops in a further pass."""
        for _ in range(_SPLIT_PASSES):
            splits = {}
            for eqn in program.eqns:
                parts = math.ceil(self.costs.cost_ns(eqn) / self.quantum_ns)
                split = splitter(eqn, parts) if parts > 1 else None
                if split is not None:
                    splits[id(eqn)] = split
            if not splits:
                break

            def rule(eqn: jex.JaxprEqn, operands: list[Any], splits: Any = splits) -> Any:
                split = splits.get(id(eqn))
                return bind_eqn(eqn, operands) if split is None else split(operands)

            program = program.rewritten(rule)
        return program

    def _compile(
        self, program: _Program, all_places: Sequence[Place], cuts: Sequence[int]
    ) -> tuple[Segment, ...]:
        edges = [0, *cuts, len(program.eqns)]

        def one(k: int) -> Segment:
            eqns = program.eqns[edges[k] : edges[k + 1]]
            before, after = all_places[edges[k]].live, all_places[edges[k + 1]].live
            made = {v for eqn in eqns for v in eqn.outvars}
            kept = set(after)
            return program.segment(
                eqns,
                writes=[v for v in after if v in made],
                drops=[v for v in before if v not in kept],
                device=self.device,
            )

        with ThreadPoolExecutor(2, thread_name_prefix="missile-compile") as pool:
            return tuple(pool.map(one, range(len(edges) - 1)))


@dataclass(frozen=True, slots=True)
class _Program:
    """A flat jaxpr with dead equations gone and values numbered: inputs, then all made."""

    traced: Traced
    eqns: tuple[jex.JaxprEqn, ...]
    param_index: dict[Any, int]
    slots: dict[Any, int]

    @classmethod
    def of(cls, traced: Traced) -> _Program:
        jaxpr = traced.jaxpr.jaxpr
        eqns = _needed(jaxpr)
        inputs = jaxpr.invars[traced.num_params :]
        made = [v for eqn in eqns for v in eqn.outvars]
        return cls(
            traced,
            eqns,
            {v: k for k, v in enumerate(jaxpr.invars[: traced.num_params])},
            {v: k for k, v in enumerate([*inputs, *made])},
        )

    @property
    def in_vars(self) -> Sequence[Any]:
        return self.traced.jaxpr.jaxpr.invars[self.traced.num_params :]

    @property
    def out_vars(self) -> Sequence[Any]:
        return self.traced.jaxpr.jaxpr.outvars

    def rewritten(self, rule: Rule) -> _Program:
        return _Program.of(replace(self.traced, jaxpr=rewrite(self.traced.jaxpr, rule)))

    def segment(
        self,
        eqns: Sequence[jex.JaxprEqn],
        writes: Sequence[Any],
        drops: Sequence[Any],
        device: JaxDevice,
    ) -> Segment:
        """The segment of `eqns`, compiled."""
        made = {v for eqn in eqns for v in eqn.outvars}
        taken = dict.fromkeys(
            v
            for eqn in eqns
            for v in eqn.invars
            if not isinstance(v, jex.Literal) and v not in made
        )
        params = [v for v in taken if v in self.param_index]
        reads = [v for v in taken if v in self.slots]
        executable = compile_flat(flat_jaxpr(eqns, [*params, *reads], writes), device)
        return Segment(
            executable,
            params=tuple(self.param_index[v] for v in params),
            reads=tuple(self.slots[v] for v in reads),
            writes=tuple(self.slots[v] for v in writes),
            drops=tuple(self.slots[v] for v in drops),
            duration_ns=0,
        )

    def plan(self, whole: Segment, segments: tuple[Segment, ...], not_cut: str) -> Plan:
        return Plan(
            whole,
            segments,
            num_slots=len(self.slots),
            outputs=tuple(self.slots[v] for v in self.out_vars),
            out_tree=self.traced.out_tree,
            bit_identical=len(segments) == 1,
            max_relative_error=0.0,
            not_cut=not_cut,
            steady=not any(unsteady(eqn) for eqn in self.eqns),
        )


def _needed(jaxpr: jex.Jaxpr) -> tuple[jex.JaxprEqn, ...]:
    """The equations that results or effects depend on."""
    wanted = {v for v in jaxpr.outvars if not isinstance(v, jex.Literal)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(v in wanted for v in eqn.outvars):
            kept.append(eqn)
            wanted.update(v for v in eqn.invars if not isinstance(v, jex.Literal))
    return tuple(reversed(kept))


def _time_run(
    plan: Plan, leaves: Sequence[Any], inputs: Sequence[Any], runs: int = _TIMED_RUNS + 1
) -> list[int]:
    """Shortest time of each segment over so many runs in order, in ns."""
    best = [math.inf] * len(plan.segments)
    for _ in range(runs):
        slots = plan.start(inputs)
        for k, segment in enumerate(plan.segments):
            start = time.perf_counter_ns()
            jax.block_until_ready(segment.run(leaves, slots))
            best[k] = min(best[k], time.perf_counter_ns() - start)
    return [int(b) for b in best]


def _timed(plan: Plan, leaves: Sequence[Any], inputs: Sequence[Any]) -> Plan:
    """`plan` with how long the whole and each segment take: the shortest of a few runs, in turns.

    Which of the two is faster is decided by these, so whatever else the machine does meanwhile has
    to meet both alike.
    """
    whole = replace(plan, segments=(plan.whole,))
    runs = [(_time_run(whole, leaves, inputs, 1), _time_run(plan, leaves, inputs, 1))
            for _ in range(_TIMED_RUNS)]  # fmt: skip
    wholes, cuts = zip(*runs, strict=True)
    durations = [min(times) for times in zip(*cuts, strict=True)]
    return replace(
        plan,
        whole=replace(plan.whole, duration_ns=min(wholes)[0]),
        segments=tuple(
            replace(s, duration_ns=d) for s, d in zip(plan.segments, durations, strict=True)
        ),
    )


def _correct(costs_ns: list[int], edges: Sequence[int], durations_ns: Sequence[int]) -> None:
    """Scales the costs of each segment's equations to what the segment took.

    Only where the two are well apart: small corrections would move cuts back and forth.
    """
    for k, duration in enumerate(durations_ns):
        start, stop = edges[k], edges[k + 1]
        expected = max(1, sum(costs_ns[start:stop]))
        if not _APART[0] < duration / expected < _APART[1]:
            for i in range(start, stop):
                costs_ns[i] = math.ceil(costs_ns[i] * duration / expected)


def _checked(plan: Plan, leaves: Sequence[Any], inputs: Sequence[Any]) -> Plan:
    """`plan` with its difference to the whole; the whole alone where that is too large.

    Allowed is TOLERANCE, or two units of the last place where the dtype is coarser.
    """
    identical, worst, reason = True, 0.0, ""
    whole = plan.run(leaves, inputs, whole=True)
    for a, b in zip(plan.run(leaves, inputs), whole, strict=True):
        inexact = jax.numpy.issubdtype(a.dtype, jax.numpy.inexact)
        allowed = max(TOLERANCE, 2 * float(jax.numpy.finfo(a.dtype).eps)) if inexact else 0.0
        a, b = np.asarray(a), np.asarray(b)
        if a.tobytes() != b.tobytes():
            identical = False
            error = _relative_error(a, b)
            worst = max(worst, error)
            if error > allowed:
                reason = f"its segments differ from the whole by {error:.1e}, allowed {allowed:.0e}"
    if reason:
        return replace(plan, segments=(plan.whole,), max_relative_error=worst, not_cut=reason)
    return replace(plan, bit_identical=identical, max_relative_error=worst)


def _relative_error(a: np.ndarray, b: np.ndarray) -> float:
    wide = np.complex128 if np.iscomplexobj(a) else np.float64
    a, b = a.astype(wide), b.astype(wide)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    scale = np.max(np.abs(b), where=np.isfinite(b), initial=0.0)
    return float(np.max(np.abs(a - b)[~same]) / scale) if scale else math.inf
