"""The Python of docs/channel-plans.md runs."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "channel-plans.md"


def test_the_example_places_a_tensor_and_moves_it(capsys) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    scope: dict = {"__name__": "example"}
    exec(code, scope)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("(0, 1, 2) [")
    assert last == "0"
    assert scope["tensor"].granules.channels == (0, 1, 2, 3)
