"""Recovery against the simulator, whose maps are its own code."""

import numpy as np
import pytest

from missile_jax._native import AddressMap, SimulatedProber
from missile_jax.coloring.accuracy import Accuracy, check, needed
from missile_jax.coloring.gf2 import reduced
from missile_jax.coloring.maps import PAGE_BYTES, PermutedMap, XorMap
from missile_jax.coloring.oracle import Probes
from missile_jax.coloring.published import published
from missile_jax.coloring.questions import Questions
from missile_jax.coloring.random_maps import (
    random_permuted_map,
    random_table_map,
    random_xor_map,
)
from missile_jax.coloring.recover import Recovery, page_states, recover, reuse
from missile_jax.coloring.simulated import address_map, simulated_oracle
from missile_jax.coloring.solved import Solved
from missile_jax.coloring.states import PAGE_PROBES
from missile_jax.errors import ChannelMapError, RecoveryError


def share_right(oracle: SimulatedProber, recovery: Recovery, states: dict[int, int]) -> float:
    """Of all granules of the pages in `states`, those whose colour is the simulator's channel."""
    granule = recovery.channel_map.granule_bytes
    offsets = np.arange(0, PAGE_BYTES, granule, dtype=np.uint64)
    channel_of = oracle.channels_of(np.array(recovery.references, np.uint64))
    assert len(set(channel_of.tolist())) == recovery.channel_map.channels
    return min(
        float(np.mean(channel_of[recovery.channel_map.colours(state)]
                      == oracle.channels_of(page * PAGE_BYTES + offsets)))
        for page, state in states.items()
    )  # fmt: skip


def recovered(channel_map: XorMap | PermutedMap, seed: int = 0) -> Recovery:
    """All granules of the pages met, and of eight more, are right."""
    oracle = simulated_oracle(channel_map, seed=seed)
    recovery = recover(oracle, seed=seed)
    assert recovery.channel_map.granule_bytes == channel_map.granule_bytes
    assert recovery.channel_map.channels == channel_map.channels
    assert type(recovery.channel_map) is type(channel_map)
    assert share_right(oracle, recovery, recovery.states) == 1
    others = [page for page in range(oracle.pages) if page not in recovery.states][:8]
    further = page_states(oracle, recovery, others)
    assert share_right(oracle, recovery, {p: state for p, (state, _) in further.items()}) == 1
    assert max(probes for _, probes in further.values()) <= PAGE_PROBES
    return recovery


def test_gtx_1080_with_its_banks_and_rows() -> None:
    gtx = published("gtx1080")
    assert gtx.bank_masks is not None
    masks = tuple(mask for mask in gtx.bank_masks if mask not in gtx.channels.masks)
    recovery = recover(simulated_oracle(address_map(gtx.channels, masks)))
    assert isinstance(recovery.channel_map, XorMap)
    inside = [mask % PAGE_BYTES for mask in gtx.channels.masks]
    assert reduced(recovery.channel_map.masks) == reduced(inside)
    assert recovery.banks is not None
    assert recovery.banks.masks is not None
    assert reduced(recovery.banks.masks) == reduced(mask % PAGE_BYTES for mask in gtx.bank_masks)
    assert recovery.banks.row_bytes == gtx.row_bytes
    assert recovery.accuracy.right == recovery.accuracy.tested >= 2995
    assert recovery.accuracy.low >= 0.999
    assert recovery.probes <= 15_000


@pytest.mark.parametrize("channels", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("granule_bytes", [1024, 4096])
def test_random_xor_maps(channels: int, granule_bytes: int) -> None:
    rng = np.random.default_rng(channels)
    recovered(random_xor_map(rng, channels, granule_bytes))


@pytest.mark.parametrize(
    ("channels", "index_bits"),
    [(6, 0), (6, 1), (6, 3), (8, 2), (12, 1), (12, 3), (36, 0), (36, 2), (80, 0), (80, 3)],
)
def test_random_permuted_maps(channels: int, index_bits: int) -> None:
    rng = np.random.default_rng([channels, index_bits])
    recovery = recovered(random_permuted_map(rng, channels, index_bits))
    assert isinstance(recovery.channel_map, PermutedMap)
    assert len(recovery.channel_map.permutations) == 1 << index_bits


@pytest.mark.parametrize("channels", [4, 6, 12, 36, 64, 80])
def test_a_map_without_structure_is_refused(channels: int) -> None:
    made = random_table_map(np.random.default_rng(channels), channels)
    with pytest.raises(RecoveryError, match=r"no map fits the timings\. As an XOR map: .*"):
        recover(simulated_oracle(made))


def test_a_map_that_is_right_in_most_places_only_is_refused() -> None:
    """1 % of the granules are elsewhere than the XOR says, too few for a trial to meet."""
    rng = np.random.default_rng(0)
    pages, granules = 64, PAGE_BYTES // 1024
    xor = XorMap(1024, (0x11400, 0x2800, 0x43000))
    table = np.concatenate([xor.colours(0)] * pages)
    bent = rng.random(len(table)) < 0.01
    # Where the solver looks, nothing is bent.
    bent[: 1 + granules // 2] = False
    table[bent] = (table[bent] + 1) % 8
    memory = AddressMap.table(1024, 8, table.tobytes(), bank_masks=[], row_shift=18)
    with pytest.raises(RecoveryError, match=r"unseen granules right|follows none"):
        recover(SimulatedProber(memory, list(range(pages)), jitter=0.01))


def test_one_channel_is_nothing_to_choose_from() -> None:
    memory = AddressMap.table(1024, 1, b"\0", bank_masks=[], row_shift=18)
    with pytest.raises(RecoveryError, match="all addresses of a page are in one channel"):
        recover(SimulatedProber(memory, [0, 1], jitter=0.01))


def test_noise_that_drowns_the_answer_is_refused() -> None:
    channel_map = published("gtx1080").channels
    with pytest.raises(RecoveryError, match="on the wrong side: at most 25% may be"):
        recover(simulated_oracle(channel_map, wrong=0.6))
    with pytest.raises(RecoveryError, match="the budget of 500 probes was spent while"):
        recover(simulated_oracle(channel_map), budget=500)
    with pytest.raises(ChannelMapError, match="accuracy=1"):
        recover(simulated_oracle(channel_map), accuracy=1.0)


class Flat:
    """An oracle whose throughput never changes."""

    pages = 4

    def pair_latency_ns(self, first: int, second: int, /) -> float:
        return 100.0

    def set_throughput(self, loaded: list[int], measured: list[int], /) -> float:
        return 5.0 * len(measured)


def test_an_oracle_without_contention_is_refused() -> None:
    with pytest.raises(RecoveryError, match="too little to tell channels apart"):
        recover(Flat())


def test_repeats_count_and_no_probe_is_beyond_the_budget() -> None:
    probes = Probes(simulated_oracle(published("gtx1080").channels), 3)
    for _ in range(3):
        probes.round_us([0], [0])
    with pytest.raises(RecoveryError, match="3 probes"):
        probes.latency_ns(0, 128)
    assert probes.spent == 3


@pytest.mark.parametrize("made", [8, 36])
def test_a_saved_map_is_used_again_and_another_is_not(made: int) -> None:
    rng = np.random.default_rng(made)
    maker = random_xor_map if made == 8 else random_permuted_map
    mine, other = maker(rng, made), maker(rng, made)
    first = recover(simulated_oracle(mine))
    elsewhere = simulated_oracle(mine, seed=7)
    again = reuse(elsewhere, first.channel_map)
    assert again.probes < 1000 < first.probes
    assert share_right(elsewhere, again, again.states) == 1
    with pytest.raises(RecoveryError):
        reuse(simulated_oracle(other, seed=7), first.channel_map)


def test_the_check_finds_what_is_wrong() -> None:
    channel_map = XorMap(1024, (0x400, 0x800, 0x1000))
    oracle = simulated_oracle(channel_map, pages=4)
    recovery = recover(oracle)
    questions = Questions(Probes(oracle, 10**6), recovery.calibration, np.random.default_rng(0))
    questions.granule_bytes = 1024
    # Page 1 is taken for another's state: all of its granules are wrong, a half of those tried.
    states = {0: recovery.states[0], 1: page_states(oracle, recovery, [1])[1][0] ^ 1}
    solved = Solved(recovery.channel_map, recovery.references, states)
    found = check(questions, solved, states, 1000)
    assert found.tested >= 1000
    assert found.share == pytest.approx(0.5, abs=0.06)


def test_confidence_bounds() -> None:
    assert needed(0.999) == 2995
    assert Accuracy(2995, 2995).low == pytest.approx(0.999, abs=1e-6)
    assert Accuracy(2995, 2995).high == 1
    # Clopper-Pearson, from tables: 3 wrong of 100.
    assert Accuracy(100, 97).low == pytest.approx(0.9243, abs=2e-4)
    assert Accuracy(100, 97).high == pytest.approx(0.9918, abs=2e-4)
