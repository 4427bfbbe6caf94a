"""Ways of bringing a model to a device and running it there, from the plainest to the runtime's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

import jax
import numpy as np

import missile_jax.models as zoo
from missile_jax import Runtime
from missile_jax.memory.parameters import Parameters
from missile_jax.memory.store import Store
from missile_jax.program.plan import Plan

if TYPE_CHECKING:
    from benchmarks.swap import Subject

DEVICE_MEMORY = "1500MiB"
# Whose requests others wait behind: on the device all the time, and longer than any copy.
_AHEAD = "ahead"


class Ways:
    """The other ways of bringing a model to the device of `runtime`, whose link is bare."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        # As large, and each parameter is a group.
        self._each = Runtime(device_memory=DEVICE_MEMORY)
        memory = self._each._memory
        assert memory is not None
        memory.store = Store(1, memory.arena.alignment)
        self._times_ns: dict[str, list[int]] = {}

    def __enter__(self) -> Ways:
        self._each.start()
        net = zoo.load("resnet50", random_weights=True)
        self._ahead_inputs = net.example
        self._runtime.load(
            _AHEAD, model=net.module, params=net.variables, example=net.example,
            priority="latency", pinned=True,
        )  # fmt: skip
        self._runtime.infer(_AHEAD, net.example)
        return self

    def __exit__(self, *_: object) -> None:
        self._each.close()

    def load(self, subject: Subject) -> None:
        self._each.load(subject.model)
        self._each.infer(subject.name, subject.inputs)
        parameters = self._each._mux.table[subject.name].parameters
        with parameters.use(plan_of(self._each, subject).whole) as arrays:
            # As plans take them: small parameters lie in one array, whoever brings them.
            self._parameters = [None if a is None else _unaligned(a) for a in arrays]
        self._times_ns = {}

    def unload(self, subject: Subject) -> None:
        self._each.unload(subject.name)

    def measure(self, subject: Subject) -> None:
        """Once in each way."""
        for name, way in (
            ("device_put_ms", self._device_put),
            ("copied_ms", self._copied),
            ("each_ms", self._by_parameter),
            ("prefetched_ms", self._prefetched),
        ):
            self._times_ns.setdefault(name, []).append(way(subject))

    def medians_ms(self) -> dict[str, float]:
        return {name: float(np.median(t)) / 1e6 for name, t in self._times_ns.items()}

    def _device_put(self, subject: Subject) -> int:
        plan = plan_of(self._runtime, subject)
        start = time.perf_counter_ns()
        leaves = jax.device_put(self._parameters, may_alias=False)
        jax.block_until_ready(leaves)
        _answer(plan, leaves, subject)
        return time.perf_counter_ns() - start

    def _copied(self, subject: Subject) -> int:
        plan = plan_of(self._runtime, subject)
        self._runtime.evict(subject.name)
        start = time.perf_counter_ns()
        with brought(self._runtime, subject.name) as parameters:
            with parameters.use(plan.whole) as leaves:
                _answer(plan, leaves, subject)
            return time.perf_counter_ns() - start

    def _by_parameter(self, subject: Subject) -> int:
        self._each.evict(subject.name)
        return timed(self._each, subject)

    def _prefetched(self, subject: Subject) -> int:
        self._runtime.evict(subject.name)
        ends: dict[str, int] = {}

        def note(name: str) -> Callable[[Future], None]:
            def done(_: Future) -> None:
                ends[name] = time.perf_counter_ns()

            return done

        waiting = []
        for name, inputs in ((_AHEAD, self._ahead_inputs), (subject.name, subject.inputs)):
            future = self._runtime.submit(name, inputs)
            future.add_done_callback(note(name))
            waiting.append(future)
        for future in waiting:
            future.result()
        self._runtime.run_until_idle()
        return ends[subject.name] - ends[_AHEAD]


def _unaligned(leaf: jax.Array) -> np.ndarray:
    """The leaf, not at 64 bytes: what is, becomes an array on a CPU as it is, without a copy."""
    source = np.asarray(leaf)
    space = np.empty(source.nbytes + 128, np.uint8)
    start = -space.ctypes.data % 64 + 8
    target = space[start : start + source.nbytes].view(source.dtype).reshape(source.shape)
    target[...] = source
    return target


def plan_of(runtime: Runtime, subject: Subject) -> Plan:
    """At the one shape that it has."""
    (plan,) = runtime._mux.table[subject.name].program.plans.values()
    return plan


def _answer(plan: Plan, leaves: Sequence[jax.Array | None], subject: Subject) -> None:
    """Runs the whole, and waits for its results on the host."""
    for result in plan.run(leaves, jax.tree.leaves(subject.inputs), whole=True):
        np.asarray(result)


@contextmanager
def brought(runtime: Runtime, name: str) -> Iterator[Parameters]:
    """All parameters of a model on the device, brought by no request."""
    engine, parameters = runtime._mux, runtime._mux.table[name].parameters
    with engine.lock:
        parameters.update(True, False, (0, 0))
        while not parameters.complete:
            assert engine.memory is not None
            engine.memory.wait(1.0)
    try:
        yield parameters
    finally:
        with engine.lock:
            parameters.update(False, True, (0, 0))
            parameters.update(False, False, (0, 0))


def timed(runtime: Runtime, subject: Subject) -> int:
    """What a request takes, in ns."""
    start = time.perf_counter_ns()
    runtime.infer(subject.name, subject.inputs)
    return time.perf_counter_ns() - start
