"""The simulated memory: closed-form cases, published interference, its maps against Python's."""

import numpy as np
import pytest

from missile_jax._native import AddressMap, MemorySimulator, MemoryTiming, SimulatedProber
from missile_jax.coloring.maps import PAGE_BYTES, ChannelMap, colours_at
from missile_jax.coloring.published import published
from missile_jax.coloring.random_maps import (
    random_permuted_map,
    random_table_map,
    random_xor_map,
)
from missile_jax.coloring.simulated import address_map, simulated_oracle

L2, MISS, SLICE, BURST = 100_000, 50_000, 1_000, 2_000
CAS, ACTIVATE, PRECHARGE, CYCLE = 10_000, 20_000, 15_000, 60_000
TIMING = {
    "l2_ps": L2,
    "miss_ps": MISS,
    "slice_ps": SLICE,
    "burst_ps": BURST,
    "cas_ps": CAS,
    "activate_ps": ACTIVATE,
    "precharge_ps": PRECHARGE,
    "row_cycle_ps": CYCLE,
    "refresh_interval_ps": 0,
}
# Two channels by bit 10, two banks in each by bit 11, rows of what is above bit 12.
SMALL = AddressMap.xor(1024, [0x400], bank_masks=[0x800], row_shift=12)
ROW_HIT = SLICE + CAS + BURST + L2 + MISS


def simulator(**changed: int) -> MemorySimulator:
    return MemorySimulator(SMALL, MemoryTiming(**(TIMING | changed)))


def addresses(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def test_a_first_access_opens_its_row_and_the_next_finds_it_open() -> None:
    memory = simulator()
    first, hit = (
        memory.run([memory.stream(addresses(0, 128), width=1, accesses=n)])[0] for n in (1, 2)
    )
    assert first.done_ps == ROW_HIT + ACTIVATE
    assert hit.done_ps == first.done_ps + ROW_HIT


def test_the_other_row_of_a_bank_closes_the_first() -> None:
    memory = simulator()
    chase = memory.stream(addresses(0, 1 << 12), width=1, accesses=100, bypass_l2=True)
    done = memory.run([chase])[0].done_ps
    assert done == 100 * (ROW_HIT + ACTIVATE) + 99 * PRECHARGE


def test_a_bank_opens_a_row_once_in_its_cycle() -> None:
    memory = simulator()
    rows = addresses(*range(0, 64 << 12, 1 << 12))
    done = memory.run([memory.stream(rows, width=64, accesses=64, bypass_l2=True)])[0].done_ps
    assert done == 63 * CYCLE + ROW_HIT + ACTIVATE


def test_open_rows_are_read_at_the_rate_of_the_bus() -> None:
    memory = simulator()
    one_row = addresses(*range(0, 1024, 64))
    stream = memory.stream(one_row, width=1024, accesses=1024, bypass_l2=True)
    # The bus is behind by less than the opening of the row.
    done = memory.run([stream])[0].done_ps
    assert done == pytest.approx(1024 * BURST + L2 + MISS, abs=SLICE + ACTIVATE + CAS + BURST)


def test_two_channels_carry_twice_as_much() -> None:
    memory = simulator()
    rates = []
    for stride in (2048, 1024):
        places = addresses(*range(0, 4096, stride))
        result = memory.run([memory.stream(places, width=4096, accesses=4096, bypass_l2=True)])[0]
        rates.append(result.accesses / result.done_ps)
    assert rates[1] / rates[0] == pytest.approx(2, rel=0.05)


def test_what_was_read_lately_is_in_the_l2() -> None:
    memory = simulator(l2_lines=64, l2_ways=64)
    few, many = (addresses(*range(0, 128 * n, 128)) for n in (64, 65))
    hits = memory.run([memory.stream(few, width=1, accesses=64 * 11)])[0]
    misses = memory.run([memory.stream(many, width=1, accesses=65 * 11)])[0]
    cold = memory.run([memory.stream(few, width=1, accesses=64)])[0]
    assert hits.done_ps == cold.done_ps + 640 * (SLICE + L2)
    # One line more than there is room for, in a round: the one that comes next is the oldest.
    assert misses.latency_mean_ps >= ROW_HIT


def test_slices_share_a_channel_s_lines() -> None:
    times = {}
    for slices in (1, 2):
        split = AddressMap.xor(
            1024, [0x400], bank_masks=[0x800], row_shift=12, slices_per_channel=slices
        )
        memory = MemorySimulator(split, MemoryTiming(**TIMING))
        lines = addresses(*range(0, 1024, 128))
        stream = memory.stream(lines, width=800, accesses=80_000)
        times[slices] = memory.run([stream])[0].done_ps
    full_round = 800 * SLICE + L2
    assert times[1] == pytest.approx(100 * full_round, rel=0.01)
    assert times[2] == pytest.approx(100 * (400 * SLICE + L2), rel=0.01)


def test_refresh_stops_all_banks_of_a_channel() -> None:
    interval, refresh = 1_000_000, 100_000
    memory = simulator(refresh_interval_ps=interval, refresh_ps=refresh)
    places = addresses(0, 0x800)
    stream = memory.stream(places, width=1, accesses=20_000, bypass_l2=True)
    result = memory.run([stream])[0]
    idle = simulator().run([simulator().stream(places, width=1, accesses=20_000, bypass_l2=True)])[
        0
    ]
    slower = result.latency_mean_ps - idle.latency_mean_ps
    # A share of refresh / interval waits for half a refresh; after it two rows are opened anew.
    want = refresh**2 / interval / 2 + 2 * ACTIVATE * idle.latency_mean_ps / interval
    assert slower == pytest.approx(want, rel=0.2)
    assert result.latency_max_ps >= idle.latency_max_ps + 0.9 * refresh


def test_a_gap_is_compute_between_rounds() -> None:
    memory = simulator()
    plain, gap = (
        memory.run([memory.stream(addresses(0), width=1, accesses=10, gap_ps=gap)])[0].done_ps
        for gap in (0, 7_000)
    )
    assert gap - plain == 9 * 7_000


def test_interference_on_a_gtx_1080_is_worst_in_one_bank_and_none_in_another_channel() -> None:
    """The order and the gap that FGPU (RTAS 2019) published."""
    gtx = published("gtx1080")
    assert gtx.bank_masks is not None
    masks = tuple(mask for mask in gtx.bank_masks if mask not in gtx.channels.masks)
    memory_map = address_map(gtx.channels, masks)
    assert memory_map.banks == 128
    memory = MemorySimulator(memory_map)
    rng = np.random.default_rng(0)
    places = rng.integers(1 << 33, size=1 << 16, dtype=np.uint64)
    channels, banks = memory_map.channels_of(places), memory_map.banks_of(places)
    same_bank = banks == banks[0]
    beside = {
        "alone": None,
        "bank": places[1:][same_bank[1:]][:256],
        "channel": places[(channels == channels[0]) & ~same_bank][:256],
        "other": places[channels != channels[0]][:256],
    }
    latency = {}
    for name, chosen in beside.items():
        streams = [memory.stream(places[:1], width=1, accesses=300, bypass_l2=True)]
        if chosen is not None:
            streams.append(memory.stream(chosen, width=16, in_flight=32, bypass_l2=True))
        latency[name] = memory.run(streams)[0].latency_mean_ps
    assert latency["bank"] > 10 * latency["channel"] > 10 * 1.05 * latency["other"]
    assert latency["other"] == pytest.approx(latency["alone"], rel=0.01)
    assert latency["bank"] > 10 * latency["other"]


@pytest.mark.parametrize(
    "channel_map",
    [
        random_xor_map(np.random.default_rng(0), 64),
        random_permuted_map(np.random.default_rng(1), 36, 3),
        random_permuted_map(np.random.default_rng(2), 6, 2, 4096),
        random_table_map(np.random.default_rng(3), 12),
    ],
    ids=["xor", "36", "6", "table"],
)
def test_the_simulator_s_maps_are_those_of_the_package(channel_map: ChannelMap) -> None:
    places = np.random.default_rng(9).integers(1 << 34, size=2000, dtype=np.uint64)
    simulated = address_map(channel_map).channels_of(places)
    assert simulated.tolist() == colours_at(channel_map, places).tolist()


def test_pages_are_scattered() -> None:
    channel_map = random_xor_map(np.random.default_rng(0), 8)
    oracle = SimulatedProber(address_map(channel_map), [7, 3])
    offsets = np.arange(0, PAGE_BYTES, 1024, dtype=np.uint64)
    for virtual, physical in ((0, 7), (1, 3)):
        want = channel_map.colours(channel_map.page_state(physical))
        assert oracle.channels_of(virtual * PAGE_BYTES + offsets).tolist() == want.tolist()


def test_timings_tell_channels_and_banks_apart_without_noise() -> None:
    gtx = published("gtx1080").channels
    memory_map = address_map(gtx)
    oracle = SimulatedProber(memory_map, [0])
    offsets = np.arange(0, PAGE_BYTES, 1024, dtype=np.uint64)
    channels, banks = memory_map.channels_of(offsets), memory_map.banks_of(offsets)
    alone = oracle.set_throughput([], [0])
    for offset, channel, bank in zip(
        offsets[:400].tolist(), channels.tolist(), banks.tolist(), strict=False
    ):
        loaded = oracle.set_throughput([0], [offset])
        assert (loaded < alone / 2) == (channel == channels[0])
        slow = oracle.pair_latency_ns(0, offset) > 1.1 * 229
        assert slow == (bank == banks[0] and offset >> 18 != 0)
    warp = offsets[channels != channels[0]][:63].tolist()
    quick = oracle.set_throughput([0], warp) / 63
    assert oracle.set_throughput([0], [*warp, 0]) / 64 < quick / 2


def test_a_share_of_timings_is_wrong() -> None:
    oracle = simulated_oracle(published("gtx1080").channels, wrong=0.2, spikes=0, jitter=0)
    alone = oracle.set_throughput([], [0])
    slow = [oracle.set_throughput([0], [128]) < alone / 2 for _ in range(2000)]
    assert np.mean(slow) == pytest.approx(0.8, abs=0.04)
    spiky = simulated_oracle(published("gtx1080").channels, wrong=0, spikes=0.1, jitter=0)
    late = [spiky.set_throughput([], [0]) < alone / 1.01 for _ in range(2000)]
    assert np.mean(late) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: AddressMap.xor(0, [1], bank_masks=[], row_shift=12), ValueError, "granule_bytes"),
        (lambda: AddressMap.xor(1, [1], bank_masks=[], row_shift=3), ValueError, "row_shift"),
        (
            lambda: AddressMap.permuted(1, 3, [], [[0, 1, 1]], bank_masks=[], row_shift=12),
            ValueError,
            "each channel once",
        ),
        (
            lambda: AddressMap.table(1, 2, b"\2", bank_masks=[], row_shift=12),
            ValueError,
            "a channel that there is not",
        ),
        (lambda: MemoryTiming(l3_ps=1), TypeError, "l3_ps"),
        (lambda: simulator(cas_ps=-1), ValueError, "negative"),
        (lambda: simulator(l2_lines=7), ValueError, "multiple of l2_ways"),
        (lambda: simulator(refresh_interval_ps=5), ValueError, "shorter than the interval"),
        (lambda: simulator().run([]), ValueError, "number of accesses"),
        (lambda: SimulatedProber(SMALL, [], seed=1), ValueError, "at least one page"),
        (lambda: SimulatedProber(SMALL, [1], wrong=1.0), ValueError, "less than 1"),
        (lambda: SimulatedProber(SMALL, [1]).pair_latency_ns(0, 2 << 20), IndexError, "1 pages"),
        (lambda: SimulatedProber(SMALL, [1]).set_throughput([0] * 65, [0]), ValueError, "at most"),
        (lambda: SimulatedProber(SMALL, [1]).set_throughput([0], []), ValueError, "to measure"),
    ],
)
def test_impossible_memories_are_refused(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
