"""Docstrings as this project writes them, made into Markdown: `name: what` becomes a list."""

import re
from typing import Any

import griffe

# One or more names, a colon and text, at the start of a line.
_FIELD = re.compile(r"^ *([*\w]+(?:, [*\w]+)*): (?=\S)", re.MULTILINE)


class Fields(griffe.Extension):
    """Rewrites every docstring before it is rendered."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _FIELD.sub(r"\n- **\1**: ", obj.docstring.value)
