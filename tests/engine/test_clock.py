"""Clocks."""

import pytest

from missile_jax.engine.clock import VirtualClock, WallClock


def test_virtual_time_only_goes_forward():
    clock = VirtualClock()
    clock.advance_to(5)
    clock.advance_to(5)
    assert clock.now_ns() == 5
    with pytest.raises(ValueError, match="from 5 to 4"):
        clock.advance_to(4)


def test_wall_time_never_falls():
    clock = WallClock()
    assert clock.now_ns() <= clock.now_ns()
