"""Channel maps against their definitions, computed address by address in plain Python."""

import numpy as np
import pytest

from missile_jax.coloring.maps import (
    ChannelMap,
    PermutedMap,
    TableMap,
    XorMap,
    colours_at,
)
from missile_jax.coloring.published import published, published_names
from missile_jax.coloring.random_maps import (
    random_permuted_map,
    random_table_map,
    random_xor_map,
)
from missile_jax.errors import ChannelMapError


def parities(value: int, masks: tuple[int, ...]) -> int:
    return sum(((value & mask).bit_count() & 1) << i for i, mask in enumerate(masks))


def defined(channel_map: ChannelMap, address: int) -> int:
    """The colour of a physical address, from the definition of its map."""
    match channel_map:
        case XorMap():
            return parities(address, channel_map.masks)
        case PermutedMap():
            group, slot = divmod(address // channel_map.granule_bytes, channel_map.channels)
            return channel_map.permutations[parities(group, channel_map.index_masks)][slot]
        case _:
            raise TypeError(channel_map)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("channels", [4, 64, 6, 12, 36, 80])
def test_colours_are_those_of_the_definition(channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    granule = int(rng.choice([1024, 2048, 4096]))
    power_of_two = not channels & (channels - 1)
    channel_map = (random_xor_map if power_of_two else random_permuted_map)(
        rng, channels, granule_bytes=granule
    )
    addresses = rng.integers(1 << 34, size=300)
    want = [defined(channel_map, int(address)) for address in addresses]
    assert colours_at(channel_map, addresses).tolist() == want
    pages = rng.integers(1 << 13, size=20)
    for page in pages:
        assert np.unique(channel_map.colours(channel_map.page_state(int(page)))).size == channels


def test_aligned_groups_hit_every_channel() -> None:
    for channels in (6, 12, 36, 80):
        made = random_permuted_map(np.random.default_rng(channels), channels)
        run = np.concatenate([made.colours(made.page_state(page)) for page in range(made.phases)])
        assert (np.sort(run.reshape(-1, channels)) == np.arange(channels)).all()
        assert made.states == made.phases * len(made.permutations)


def test_table() -> None:
    made = random_table_map(np.random.default_rng(0), 12, states=3)
    assert made.page_state(7) == 1
    assert made.colours(1).tobytes() == made.table[1]


def test_published_hashes() -> None:
    gtx = published("gtx1080")
    assert gtx.channels.channels == 8
    assert gtx.channels.granule_bytes == 1024
    # The bits of its first mask, as published.
    bits = [10, 12, 16, 20, 23, 26, 29, 30]
    assert gtx.channels.masks[0] == sum(1 << bit for bit in bits)
    assert gtx.bank_masks is not None
    assert set(gtx.channels.masks) < set(gtx.bank_masks)
    side = published("h100_80gb_l2_side").channels
    # Every 8 KiB has 4 KiB on either side.
    assert (side.colours(0).reshape(-1, 2).sum(axis=1) == 1).all()
    assert (side.colours(1) == 1 - side.colours(0)).all()
    assert len(published_names()) == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: XorMap(1024, (0x200,)), "none below the granule"),
        (lambda: XorMap(1000, (0x400,)), "granule_bytes=1000"),
        (lambda: XorMap(1024, ()), "1 to 8 masks"),
        (lambda: XorMap(1024, (0x400,)).colours(2), "page state 2: must be 0 to 1"),
        (lambda: PermutedMap(1024, 3, (), ((0, 1, 1),)), "each of 3 channels once"),
        (lambda: PermutedMap(1024, 3, (1,), ((0, 1, 2),)), "must be 2"),
        (lambda: PermutedMap(1 << 20, 8, (), (tuple(range(8)),)), "more than the granules"),
        (lambda: TableMap(1024, 2, (b"\2" * 2048,)), "colour 2 of 2"),
        (lambda: TableMap(1024, 2, (b"\1" * 7,)), "a row of 7 bytes, must be 2048"),
        (lambda: random_xor_map(np.random.default_rng(0), 6), "channels=6"),
        (lambda: random_permuted_map(np.random.default_rng(0), 80, 3, 4096), "at most 1"),
        (lambda: published("gtx9"), "there are gb200_l2_side"),
    ],
)
def test_impossible_maps_are_refused(make, message: str) -> None:
    with pytest.raises(ChannelMapError, match=message):
        make()
