"""The Python call of docs/channels.md runs, and finds what it was given."""

import re
from pathlib import Path

from missile_jax.coloring.gf2 import reduced
from missile_jax.coloring.maps import PAGE_BYTES

PAGE = Path(__file__).parents[2] / "docs" / "channels.md"


def test_the_call_recovers_the_masks_that_it_hands_in(capsys) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    scope: dict = {"__name__": "example"}
    exec(code, scope)
    handed_in = [0x64911400, 0x46B2B800, 0xCE4C3000]
    assert all(f"0x{mask:X}" in code for mask in handed_in)
    found = scope["found"]
    assert reduced(found.channel_map.masks) == reduced(mask % PAGE_BYTES for mask in handed_in)
    assert "unseen granules right (100.000%" in capsys.readouterr().out
