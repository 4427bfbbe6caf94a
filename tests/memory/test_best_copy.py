"""The best copy of this machine: measured once, remembered, and right."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_driver import until
from links import ranks, threads

from missile_jax import _native
from missile_jax.memory import link as memory_link


def test_the_best_copy_is_measured_once(tmp_path: Path, monkeypatch):
    asked = []
    rates = {(1, False): 8e9, (1, True): 9e9, (2, False): 9.1e9, (2, True): 9.2e9}

    def measure(*args: int) -> dict[tuple[int, bool], float]:
        asked.append(args)
        return rates

    monkeypatch.setattr(_native, "measure_copies", measure)
    monkeypatch.setattr(memory_link, "_curve", lambda *_: {1: 4.0, 2: 8.0, 4: 9.0})
    first = memory_link.best_copy(tmp_path / "new")
    # Two threads are a little faster, which is not worth a core.
    assert first == memory_link.BestCopy(
        threads=1, non_temporal=True, bytes_per_s=9e9, elbow_bytes=2
    )
    assert memory_link.best_copy(tmp_path / "new") == first
    assert len(asked) == 1
    (path,) = (tmp_path / "new").iterdir()
    rates[2, False] = 12e9
    path.write_text("{")
    assert memory_link.best_copy(tmp_path / "new").threads == 2
    assert json.loads(path.read_text())["bytes_per_s"] == 12e9
    link = memory_link.make_link(tmp_path / "new", chunk_bytes=4096)
    assert (link.threads, link.non_temporal, link.chunk_bytes) == (2, False, 4096)
    link.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no rank of their own")
def test_what_copies_is_nicer_than_what_computes(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(_native, "measure_copies", lambda *_: {(1, False): 1.0})
    monkeypatch.setattr(memory_link, "_curve", lambda *_: {1: 1.0})
    others = threads()
    link = memory_link.make_link(tmp_path)
    until(lambda: ranks(threads() - others) == [0, 10])
    link.close()


def test_a_best_copy_that_can_not_be_written_is_a_warning(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(_native, "measure_copies", lambda *_: {(1, False): 1.0})
    monkeypatch.setattr(memory_link, "_curve", lambda *_: {1: 1.0})
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="not remembered"):
        memory_link.best_copy(tmp_path / "file")


def test_the_elbow_is_measured_on_the_link(tmp_path: Path):
    best = memory_link.best_copy(tmp_path)
    assert best.elbow_bytes in memory_link._GROUP_SIZES
    rates = memory_link._curve(best.threads, best.non_temporal)
    assert list(rates) == list(memory_link._GROUP_SIZES)
    assert min(rates.values()) > 0


def test_a_slow_bus_takes_less_of_the_processors(monkeypatch):
    monkeypatch.setattr(memory_link, "_cores", lambda: 4)
    best = memory_link.BestCopy(2, True, 20e9, 1 << 20)
    shares = [memory_link.processor_share(best, rate) for rate in (20e9, 5e9, 100e9)]
    assert shares == [0.5, 0.125, 1.0]


@pytest.mark.parametrize(
    "damage",
    [
        "[]",
        '{"threads": 1}',
        '{"threads": 1, "non_temporal": false, "bytes_per_s": NaN, "elbow_bytes": 1}',
        '{"threads": 1, "non_temporal": false, "bytes_per_s": 1.0, "elbow_bytes": 1e999}',
        '{"threads": 0, "non_temporal": false, "bytes_per_s": 1.0, "elbow_bytes": 1}',
    ],
)
def test_what_is_damaged_is_measured_anew(tmp_path: Path, damage: str):
    found = memory_link.BestCopy(2, False, 5e9, 1 << 20)
    assert memory_link.remembered(tmp_path, ("card",), lambda: found) == found
    (path,) = tmp_path.iterdir()
    path.write_text(damage)
    better = memory_link.BestCopy(2, False, 6e9, 2 << 20)
    assert memory_link.remembered(tmp_path, ("card",), lambda: better) == better
    assert memory_link.remembered(tmp_path, ("card",), lambda: found) == better
    assert memory_link.remembered(tmp_path, ("other",), lambda: found, keep=False) == found
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("patience_s", "rounds"), [(0.0, 1), (60.0, memory_link._REPEATS)])
def test_a_curve_takes_so_long_and_no_longer(monkeypatch, patience_s: float, rounds: int):
    monkeypatch.setattr(memory_link, "_LONGEST_CURVE_S", patience_s)
    source = np.random.default_rng(0).integers(0, 256, 1 << 16, np.uint8)
    sizes = (1 << 14, 1 << 12)
    block = _native.Arena(1 << 14).allocate(1 << 14)
    assert block is not None
    ends = []

    class Watched(_native.Link):
        def close(self) -> None:
            ends.append(self.stats()["curve"]["copies"])
            super().close()

    rates = memory_link.transfer_curve(Watched(), block, source, sizes)
    assert tuple(rates) == sizes
    assert min(rates.values()) > 0
    assert ends == [rounds * (16 + 4)]
    shown = block.array(0, (1 << 14,), np.uint8)
    np.testing.assert_array_equal(shown, source[-(1 << 14) :])


def test_copies_are_measured_in_every_way():
    rates = _native.measure_copies(1 << 20, 3)
    assert set(rates) == {(1, False), (1, True), (2, False), (2, True)}
    assert all(rate > 0 for rate in rates.values())
    assert _native.streaming_stores() in ("avx512f", "avx2", "none")


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("non_temporal", [False, True])
def test_a_bare_copy_copies(threads: int, non_temporal: bool):
    source = np.random.default_rng(0).integers(0, 256, 100_003, np.uint8)
    target = np.zeros_like(source)
    assert _native.bare_copy_ns(target, source, threads, non_temporal) > 0
    np.testing.assert_array_equal(target, source)
    with pytest.raises(ValueError, match="sizes differ"):
        _native.bare_copy_ns(target, source[1:])
