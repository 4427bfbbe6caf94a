"""Devices that are not here."""

import pytest
from h100_worker import describe_target

from missile_jax.errors import ConfigError
from missile_jax.program.target import target_device, target_names

pytestmark = pytest.mark.h100


def test_an_unknown_name_is_answered_with_the_known_ones():
    assert target_names() == ("h100",)
    with pytest.raises(ConfigError, match="no GPU target 'h1000'; there are: h100"):
        target_device("h1000")


def test_it_is_one_gpu_beside_the_machine_s_own_devices(on_h100):
    target, own = on_h100(describe_target, "h100")
    assert target == ("gpu", 0)
    assert own == ["cpu"]
