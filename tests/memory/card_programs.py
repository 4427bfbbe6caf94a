"""Programs on the fake CUDA driver's device, whose launches run late."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from fake_driver import Bus, ComputeStream, FakeDriver, tensor_of

from missile_jax._native import Arena, CudaDevice, Link
from missile_jax.engine.clock import WallClock
from missile_jax.engine.device import InlineDevice
from missile_jax.engine.multiplexer import Multiplexer
from missile_jax.engine.request import NEVER_NS, Request, RequestFuture
from missile_jax.engine.table import Served
from missile_jax.memory.flows import Flows
from missile_jax.memory.parameters import Fixed
from missile_jax.memory.transfers import CudaTransfers, Room
from missile_jax.program.compile import Executable
from missile_jax.program.plan import Plan, Segment
from missile_jax.program.program import Leaf, Program
from missile_jax.schedule.policies import make_policy
from missile_jax.schedule.queue import RequestQueue
from missile_jax.spec import ModelInfo, Priority

MIB = 1 << 20


class OnDevice:
    """Bytes of the device's memory, as XLA has an array there: theirs once it is ready."""

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        keep: object,
        ready: Callable[[], object] = bool,
    ) -> None:
        self.shape, self.nbytes = shape, int(np.prod(shape))
        self._address, self._keep, self.block_until_ready = address, keep, ready

    def unsafe_buffer_pointer(self) -> int:
        return self._address


def shown(capsule: Any) -> Any:
    """What JAX makes of a view."""
    tensor = tensor_of(capsule)
    return OnDevice(tensor.data, tuple(tensor.shape[: tensor.ndim]), capsule)


def described(name: str, tenant: str = "default", *, latency: bool = False) -> ModelInfo:
    priority = Priority.LATENCY if latency else Priority.BEST_EFFORT
    return ModelInfo(name, priority, tenant, None, (1, 2), None, (), (), 0)


class Card:
    """A device with a link each way, room for inputs and results, and an engine.

    compute: the stream on which launches run.
    """

    def __init__(self, device: CudaDevice, compute: ComputeStream, room: int, pinned: int) -> None:
        self.compute = compute
        self.inputs, self.pinned = Arena.on_cuda(device, room), Arena.pinned(device, pinned)
        self.room = Room(self.inputs, self.pinned)
        links = (Link(cuda=device, to_host=way) for way in (False, True))
        self.flows = Flows(*links, {})
        self.mux = Multiplexer(InlineDevice(), make_policy("fifo"), WallClock())
        self._xla, self._bus = Arena.on_cuda(device, 64 * MIB), Bus(device)

    def close(self) -> None:
        self.mux.close()
        self.flows.close()
        self._bus.close()

    def transfers(self, name: str) -> CudaTransfers:
        return CudaTransfers(described(name), self.flows, self.room, shown)

    def place(self, shape: tuple[int, ...]) -> OnDevice:
        """Memory that XLA has."""
        block = self._xla.allocate(int(np.prod(shape)))
        assert block is not None
        return OnDevice(block.address, shape, block, self.compute.synchronize)

    def sum(self, value: int, of: Any) -> OnDevice:
        """Launches what adds `value` to each byte. XLA brings what is not there."""
        if isinstance(of, np.ndarray):
            host, of = of, self.place(of.shape)
            self._bus.write(of._keep, host)
        result = self.place(of.shape)
        where = (result.unsafe_buffer_pointer(), of.unsafe_buffer_pointer())
        self.compute.launch_add(*where, of.nbytes, value)
        return result

    def serve(self, name: str) -> None:
        """A model of bytes [B, ...] that gives x + 1 and x + 2, at once or in two segments."""

        def segment(values: tuple[int, ...], writes: tuple[int, ...], drops: tuple[int, ...]):
            launch = Executable(lambda x: [self.sum(value, x) for value in values], 0, 0, ())
            return Segment(launch, (), (0,), writes, drops, 0)

        whole = segment((1, 2), (1, 2), (0,))
        halves = (segment((1,), (1,), ()), segment((2,), (2,), (0,)))
        plan = Plan(whole, halves, 3, (1, 2), None, True, 0.0, "")
        leaf = Leaf("x", (1, MIB), OnDevice.dtype, ())
        info = described(name)
        plans = {(rows, 0): plan for rows in info.buckets}
        transfers = self.transfers(name)
        program = Program(info, (), plans, None, None, (leaf,), (leaf, leaf), True, transfers)
        self.mux.add(Served(program, Fixed(()), 1.0, RequestQueue(100)))

    def request(self, name: str, x: np.ndarray) -> Request:
        program = self.mux.table[name].program
        inputs, fit = program.accept_leaves([x])
        future = RequestFuture(lambda: self.mux.cancelled(request))
        request = Request(program, inputs, fit, 0, NEVER_NS, NEVER_NS, list, future)
        return request

    def submit(self, name: str, x: np.ndarray) -> RequestFuture:
        request = self.request(name, x)
        self.mux.submit(request)
        return request.future

    def run(self) -> None:
        while self.mux.step():
            pass


@contextmanager
def opened(driver: FakeDriver, room: int = 4 * MIB, pinned: int = 16 * MIB) -> Iterator[Card]:
    with driver.compute() as compute:
        card = Card(driver.device(), compute, room, pinned)
        try:
            yield card
        finally:
            compute.let_go()
            card.close()
            # A test that failed would keep it for longer than the driver.
            vars(card).clear()
