"""A page's colours as text: one sign a granule."""

from __future__ import annotations

import string

import numpy as np

_SIGNS = string.digits + string.ascii_lowercase + string.ascii_uppercase
_ROW = 64


def picture(colours: np.ndarray) -> list[str]:
    """Lines of 64 granules, in order of their offsets.

    A channel is a digit, then a small letter, then a capital; from 62 channels on a letter with an
    accent.
    """
    count = int(colours.max()) + 1
    signs = (_SIGNS + "".join(map(chr, range(0xC0, 0x180))))[: max(count, 1)]
    text = "".join(signs[colour] for colour in colours.tolist())
    return [text[start : start + _ROW] for start in range(0, len(text), _ROW)]
