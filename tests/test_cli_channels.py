"""`missile channels`: probe, show, verify, on a simulated memory and without a GPU."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from missile_jax.cli import app
from missile_jax.coloring.maps import XorMap
from missile_jax.coloring.picture import picture
from missile_jax.coloring.random_maps import random_permuted_map, random_xor_map
from missile_jax.coloring.saved import (
    SavedMap,
    default_path,
    load,
    map_from_dict,
    map_to_dict,
    save,
)
from missile_jax.errors import ChannelError, ChannelMapError, RecoveryError


def channels(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["channels", *map(str, arguments)])


def test_probe_saves_show_prints_verify_tries(tmp_path: Path) -> None:
    file = tmp_path / "maps" / "gtx.json"
    ended = channels("probe", "--simulate", "gtx1080", "--out", file)
    assert ended.exit_code == 0, ended.output
    assert "gtx1080 (simulated): 3072 of 3072 unseen granules right" in ended.stdout
    assert "8 channels, granules of 1024 bytes" in ended.stdout
    shown = channels("show", file, "--state", "3")
    assert "gtx1080 (simulated)" in shown.stdout
    drawn = shown.stdout.splitlines()[-32:]
    assert drawn == picture(load(file).channel_map.colours(3))
    verified = channels("verify", file, "--simulate", "gtx1080", "--seed", "5")
    assert verified.exit_code == 0, verified.output
    assert "384 of 384" in verified.stdout
    other = channels("verify", file, "--simulate", "xor:8:3")
    assert isinstance(other.exception, RecoveryError)


def test_a_saved_map_is_kept_while_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert channels("probe", "--simulate", "xor:4").exit_code == 0
    path = default_path("xor:4 (simulated)")
    kept = load(path).channel_map
    again = channels("probe", "--simulate", "xor:4", "--seed", "8")
    assert f"{path} fits, and is kept" in again.stdout
    assert load(path).channel_map == kept
    save(SavedMap("x", True, XorMap(1024, (0x400, 0x800)), "none", 0), path)
    anew = channels("probe", "--simulate", "xor:4")
    assert "does not fit" in anew.stdout
    assert load(path).channel_map == kept


def test_no_map_is_saved_where_none_fits(tmp_path: Path) -> None:
    file = tmp_path / "none.json"
    ended = channels("probe", "--simulate", "none:12", "--out", file)
    assert isinstance(ended.exception, RecoveryError)
    assert not file.exists()


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISSILE_CUDA_DRIVER", "/nowhere/libcuda.so.1")
    ended = channels("probe")
    assert isinstance(ended.exception, ChannelError)
    assert "--simulate probes a simulated memory" in str(ended.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nothing.json"], "No such file"),
        (["probe", "--simulate", "gtx9"], "must be one of gb200_l2_side"),
        (["probe", "--simulate", "xor:6"], "channels=6"),
        (["probe", "--simulate", "none:200"], "2 to 80 channels"),
        (["probe", "--simulate", "gtx1080", "--sides"], "leave out --simulate"),
        (["show", "gtx1080", "--state", "8"], "page state 8: must be 0 to 7"),
    ],
)
def test_mistakes_are_told(arguments: list[str], message: str) -> None:
    ended = channels(*arguments)
    assert isinstance(ended.exception, ChannelMapError)
    assert message in str(ended.exception)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a channel map of format 1"),
        ('{"format": 1}', "damaged: KeyError"),
        (
            '{"format": 1, "gpu": "", "simulated": true, "map": {"family": "odd"}}',
            "must be xor or permuted",
        ),
    ],
)
def test_damaged_files_are_told(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "map.json"
    file.write_text(text)
    with pytest.raises(ChannelMapError, match=message):
        load(file)


def test_maps_come_back_as_they_went() -> None:
    rng = np.random.default_rng(0)
    for made in (random_xor_map(rng, 64), random_permuted_map(rng, 80, 3)):
        assert map_from_dict(map_to_dict(made)) == made


def test_a_picture_has_a_sign_for_each_channel() -> None:
    made = picture(np.arange(80, dtype=np.uint8))
    assert [len(line) for line in made] == [64, 16]
    assert len(set("".join(made))) == 80
