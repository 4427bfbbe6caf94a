"""The link: callbacks, references, threads, the end of the interpreter."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import numpy as np
import pytest
from links import KIB, PATIENCE_S, MakeLink, endless, finish

from missile_jax import _native


def test_each_copy_is_told_of_once(make_link: MakeLink):
    link = make_link(chunk_bytes=KIB, threads=2)
    flow = link.flow("a")
    told: list[tuple[_native.Copy, bool, int]] = []
    last = threading.Event()

    def on_done(copy: _native.Copy) -> None:
        told.append((copy, copy.done, threading.get_ident()))
        if len(told) == 41:
            last.set()

    copies = [flow.copy(bytearray(3000), 0, bytes(3000), 0, 3000, on_done) for _ in range(40)]
    copies.append(flow.copy(bytearray(1), 0, bytes(1), 0, 0, on_done))
    assert last.wait(PATIENCE_S)
    link.close()
    assert {id(copy) for copy, *_ in told} == {id(copy) for copy in copies}
    assert all(done for _, done, _ in told)
    assert len({ident for *_, ident in told} | {threading.get_ident()}) == 2


def test_an_error_in_a_callback_is_reported_and_harms_nothing(make_link: MakeLink, monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: seen.append(str(args.exc_value)))

    def fail(_copy: _native.Copy) -> None:
        raise RuntimeError("no thanks")

    link = make_link()
    flow = link.flow("a")
    finish(*(flow.copy(bytearray(10), 0, bytes(10), 0, 10, fail) for _ in range(2)))
    link.close()
    assert seen == ["no thanks"] * 2


def test_a_callback_may_use_the_link_and_close_it():
    link = _native.Link()
    flow = link.flow("a")
    block, closed = bytearray(b"0123"), threading.Event()

    def second(_copy: _native.Copy) -> None:
        link.close()
        closed.set()

    def first(copy: _native.Copy) -> None:
        flow.copy(block, 0, b"abcd", 0, 4, second).wait(PATIENCE_S)

    finish(flow.copy(block, 0, b"wxyz", 0, 4, first))
    assert closed.wait(PATIENCE_S)
    assert block == b"abcd"
    link.close()


def test_a_callback_may_drop_the_last_reference():
    box = [_native.Link()]
    gone = weakref.ref(box[0])
    dropped = threading.Event()

    def on_done(_copy: _native.Copy) -> None:
        box.clear()
        gc.collect()
        dropped.set()

    flow = box[0].flow("a")
    blocker = endless(flow)
    copy = flow.copy(bytearray(4), 0, b"abcd", 0, 4, on_done)
    del flow
    assert blocker.cancel()
    assert dropped.wait(PATIENCE_S)
    finish(copy)
    assert gone() is None


class Memory(np.ndarray):
    """An array that weak references can point at."""


def test_memory_is_held_until_the_copy_has_ended_and_no_longer(make_link: MakeLink):
    link = make_link(chunk_bytes=64 * KIB)
    flow = link.flow("a")
    blocker = endless(flow)
    target, source = np.zeros(9, np.uint8).view(Memory), np.ones(9, np.uint8).view(Memory)
    freed = [threading.Event(), threading.Event()]
    weakref.finalize(target, freed[0].set)
    weakref.finalize(source, freed[1].set)
    address = target.ctypes.data
    copy = flow.copy((address, target), 0, source, 0, 9)
    del target, source
    gc.collect()
    assert not any(event.is_set() for event in freed)
    blocker.cancel()
    finish(copy)
    assert all(event.wait(PATIENCE_S) for event in freed)


def test_memory_of_a_copy_nobody_waits_for_is_let_go(make_link: MakeLink):
    freed = threading.Event()
    source = np.ones(9, np.uint8).view(Memory)
    weakref.finalize(source, freed.set)
    flow = make_link().flow("a")
    flow.copy(bytearray(9), 0, source, 0, 9)
    del source
    assert freed.wait(PATIENCE_S)


def test_a_bytearray_keeps_its_size_while_it_is_copied(make_link: MakeLink):
    flow = make_link(chunk_bytes=64 * KIB).flow("a")
    target = bytearray(KIB)
    copy = flow.copy_many(target, bytes(KIB), [(0, 0, KIB)] * (1 << 20))
    with pytest.raises(BufferError):
        target.clear()
    copy.cancel()
    assert copy.wait(PATIENCE_S)
