"""LS beside BE, phase by phase, under interference that is written down."""

import numpy as np
import pytest

from missile_jax.coloring.gpus import GPUS, gpu_named
from missile_jax.coloring.interference import SimulatedInterference
from missile_jax.coloring.plan import ChannelPlan
from missile_jax.coloring.streams import Efficiency, coloured_share, stream_of
from missile_jax.coloring.worth import LAYOUTS, Phase, Stream, percentile, simulate
from missile_jax.errors import ConfigError
from missile_jax.program.traffic import TabledRead, Traffic

GPU = GPUS["A2000"]


class Written:
    """Both go at half speed where neither is coloured, else as they would alone."""

    def slowdown(self, ls, be):
        if ls is None or be is None or (ls.coloured and be.coloured):
            return 1.0, 1.0
        return 2.0, 2.0


def stream(name: str, *phases: float, pressure: float = 1.0, coloured: float = 1.0) -> Stream:
    return Stream(name, tuple(Phase(alone_s, pressure, coloured) for alone_s in phases))


def arrivals(n: int, load: float, ls: Stream, seed: int = 0) -> list[float]:
    gaps = np.random.default_rng(seed).exponential(ls.alone_s / load, n)
    return np.cumsum(gaps).tolist()


@pytest.fixture(scope="module")
def simulated() -> SimulatedInterference:
    plan = ChannelPlan.by_class(GPU.channels, latency_alone=True)
    return SimulatedInterference(GPU, plan)


@pytest.mark.smoke
def test_a_request_takes_as_long_as_its_phases_and_those_before_it():
    ls = stream("ls", 1.0, 2.0)
    alone = simulate(ls, None, Written(), [1.0, 2.0, 10.0], "none")
    assert alone.latencies_s == pytest.approx((3.0, 5.0, 3.0))
    assert (alone.be_rate, alone.overlap) == (0.0, 0.0)


def test_without_isolation_both_go_at_half_speed_while_they_overlap():
    ls, be = stream("ls", 1.0), stream("be", 10.0)
    shared = simulate(ls, be, Written(), [4.0, 20.0], "none")
    assert shared.latencies_s == pytest.approx((2.0, 2.0))
    # In 22 s BE has lost half of each of two requests' 2 s.
    assert shared.be_rate == pytest.approx(2 / 22)
    assert shared.overlap == pytest.approx(1.0)
    apart = simulate(ls, be, Written(), [4.0, 20.0], "static")
    assert apart.latencies_s == pytest.approx((1.0, 1.0))


def test_bimodal_isolates_from_the_phase_that_begins_beside_a_request():
    ls, be = stream("ls", 3.0), stream("be", 2.0, 2.0)
    # BE's phase in flight reads the copy on all channels: one of its 2 s is left, at half speed.
    outcome = simulate(ls, be, Written(), [1.0], "bimodal")
    assert outcome.latencies_s == pytest.approx((4.0,))


def test_light_phases_do_not_count_as_pressed():
    ls, be = stream("ls", 1.0, pressure=0.4), stream("be", 1.0)
    assert simulate(ls, be, Written(), [0.0], "none").overlap == 0.0


def test_the_nearest_rank_is_a_value():
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0
    assert percentile(list(range(1, 101)), 0.99) == 99
    assert percentile([7.0], 0.99) == 7.0


# On simulated memory.


def test_without_colour_every_layout_is_the_same(simulated):
    ls, be = stream("ls", 1e-3, 2e-3, coloured=0.0), stream("be", 4e-3, coloured=0.0)
    times = arrivals(200, 0.3, ls)
    outcomes = [simulate(ls, be, simulated, times, layout) for layout in LAYOUTS]
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert percentile(outcomes[0].latencies_s, 0.5) > 1.5 * ls.alone_s


@pytest.mark.parametrize("pressure", [0.3, 0.6, 1.0])
def test_all_coloured_on_channels_apart_is_as_good_as_alone(simulated, pressure):
    ls, be = stream("ls", 1e-3, 2e-3, pressure=pressure), stream("be", 4e-3)
    times = arrivals(200, 0.3, ls)
    beside = simulate(ls, be, simulated, times, "static").latencies_s
    alone = simulate(ls, None, simulated, times, "static").latencies_s
    for share in (0.5, 0.99):
        assert percentile(beside, share) == pytest.approx(percentile(alone, share), rel=0.02)


def test_the_benefit_goes_to_nothing_with_the_coloured_share(simulated):
    times = arrivals(300, 0.3, stream("ls", 1e-3))
    changes = []
    for share in (0.0, 0.01, 1.0):
        ls = stream("ls", 1e-3, pressure=2 / 3, coloured=share)
        be = stream("be", 4e-3, coloured=share)
        p99 = {
            layout: percentile(simulate(ls, be, simulated, times, layout).latencies_s, 0.99)
            for layout in ("none", "static")
        }
        changes.append(p99["static"] / p99["none"] - 1)
    assert changes[0] == 0.0
    assert abs(changes[1]) < 0.02
    assert changes[-1] < -0.1


def test_channels_apart_are_paid_for_with_bandwidth(simulated):
    # On two thirds of the channels what needs all of the memory takes half as long again.
    assert simulated.slowdown(Phase(1, 1.0, 1.0), None)[0] == pytest.approx(1.5, rel=0.05)
    assert simulated.slowdown(None, Phase(1, 1.0, 1.0))[1] == pytest.approx(3.0, rel=0.05)
    assert simulated.slowdown(Phase(1, 1.0, 0.0), None) == (1.0, 1.0)


def test_two_that_fill_the_memory_have_half_of_it_each(simulated):
    both = simulated.slowdown(Phase(1, 1.0, 0.0), Phase(1, 1.0, 0.0))
    assert both == pytest.approx((2.0, 2.0), rel=0.1)


# From traffic to streams.


def test_a_phase_is_bound_by_bytes_or_by_operations():
    read = TabledRead(40, flops_per_byte=1.0)
    heavy = TabledRead(30, flops_per_byte=1e6)
    reached = Efficiency(memory=0.5, compute=0.25)
    one = Traffic(bytes=GPU.bytes_per_s, flops=0.0, tabled=())
    two = Traffic(bytes=100.0, flops=GPU.flops_per_s, tabled=(read, heavy))
    nothing = Traffic(0.0, 0.0, ())
    stream = stream_of("m", [one, two, nothing], GPU, reached)
    assert [phase.alone_s for phase in stream.phases] == [2.0, 4.0]
    assert stream.phases[0] == Phase(2.0, 1.0, 0.0)
    assert stream.phases[1].coloured == 0.4
    assert stream.phases[1].pressure == pytest.approx(100 / (0.5 * GPU.bytes_per_s) / 4)
    assert coloured_share([two], GPU, reached) == 0.4
    assert stream_of("m", [two], GPU, reached, any_product=True).phases[0].coloured == 0.7


def test_a_gpu_without_a_data_sheet_is_refused():
    with pytest.raises(ConfigError, match="'K80'; there are: P40, V100, A2000, A5500, H100"):
        gpu_named("K80")
    assert [gpu.channels for gpu in GPUS.values()] == [12, 32, 6, 12, 80]
